"""A run over a mix of files: what is trained on is what the command line said, across a resume too."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def trained_on(run: Path) -> list[tuple[str, str]]:
    """File and prompt of every group, in order."""
    rows = [row for path in sorted(run.glob("rollouts/*.parquet")) for row in pq.read_table(path).to_pylist()]
    groups = {row["group_id"]: (row["source"], row["prompt"]) for row in rows}
    return [groups[group] for group in sorted(groups)]


@pytest.mark.long
def test_a_run_trains_on_the_epoch_that_its_files_make(make_job: Callable[..., object]) -> None:
    job = make_job(
        prompt_data="digits.jsonl@[:4]",
        rollout_batch_size="5",
        n_samples_per_prompt="2",
        num_rollout="2",
        save="save",
        save_interval="1",
        load="save",
    )
    (job.folder / "bad.jsonl").write_text('{"input": "7"}\n{broken\n' + json.dumps({"input": "7 " * 70}) + "\n")
    pq.write_table(pa.table({"input": ["5", "6"], "metadata": ['{"a": 1}', None]}), job.folder / "table.parquet")
    files = [
        "--prompt-data",
        "table.parquet=2",
        "bad.jsonl",
        "--skip-bad-rows",
        "--skip-long-prompts",
    ]
    done = job.run(*files)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bad.jsonl: 1 of 3 rows are malformed and left out; the first: bad.jsonl:2: " in done.stderr
    assert "bad.jsonl: 1 of 3 rows are too long and left out; the first: bad.jsonl:3: " in done.stderr
    events = [json.loads(line) for line in (job.folder / "run/events.jsonl").read_text().splitlines()]
    (left_out,) = [event["files"] for event in events if event["event"] == "rows_left_out"]
    assert [(entry["reason"], entry["count"]) for entry in left_out] == [("bad", 1), ("long", 1)]
    done = job.run("--num-rollout", "4", *files)  # goes on from the second step: nine prompts are an epoch
    assert done.returncode == 0, done.stdout + done.stderr
    groups = trained_on(job.folder / "run")
    digits = [("digits", str(d)) for d in range(1, 5)]
    table = [("table", "5"), ("table", "6")]
    epoch = Counter([*digits, *table, *table, ("bad", "7")])
    assert len(groups) == 20
    assert Counter(groups[:9]) == Counter(groups[9:18]) == epoch
