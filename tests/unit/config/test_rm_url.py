"""--rm-url is refused where nothing would read it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slimrl.config import Config, EvalConfig
from slimrl.config.check import check

Make = Callable[..., Config]
URL = "http://judge/score"


@pytest.mark.parametrize(
    "fields",
    [
        {"rm_type": "remote_rm"},
        {"rm_type": "boxed_remote_rm"},
        {"rm_type": "slimrl/remote_rm"},
        {"reward": ("math=1", "remote_rm=0.5")},
        {"reward": ("my/reward.py:score=0.5",)},
        {"custom_rm_path": "pkg.mod.score"},
    ],
)
def test_a_reward_that_reads_it_may_have_it(make_config: Make, fields: dict[str, object]) -> None:
    assert check(make_config(rm_url=URL, **fields)) == []


@pytest.mark.parametrize("fields", [{"rm_type": "math"}, {"reward": ("math=0.5", "f1")}])
def test_a_reward_that_does_not_read_it_may_not(make_config: Make, fields: dict[str, object]) -> None:
    (problem,) = check(make_config(rm_url=URL, **fields))
    assert problem.startswith("--rm-url has no effect without remote_rm")


def test_rows_that_name_remote_rm_are_reason_enough(make_config: Make, prompt_file: Path) -> None:
    with prompt_file.open("a") as file:
        file.write('{"input": "1", "label": "1", "metadata": {"rm_type": "remote_rm"}}\n')
    assert check(make_config(rm_url=URL)) == []


def test_rows_of_a_compressed_file_are_too(make_config: Make, tmp_path: Path) -> None:
    rows = [{"input": str(i), "metadata": json.dumps({"rm_type": "remote_rm", "n": i})} for i in range(100)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet", compression="gzip", write_statistics=False)
    assert check(make_config(rm_url=URL, prompt_data=(str(tmp_path / "rows.parquet"),))) == []


def test_rows_of_an_evaluation_set_are_too(make_config: Make, tmp_path: Path) -> None:
    held_out = tmp_path / "eval.jsonl"
    held_out.write_text('{"input": "1", "metadata": {"rm_type": "remote_rm"}}\n')
    config = make_config(rm_url=URL)
    config = replace(config, eval=EvalConfig(eval_interval=1, eval_prompt_data=("sums", str(held_out))))
    assert check(config) == []
