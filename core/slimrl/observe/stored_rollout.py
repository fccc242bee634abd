"""Reading RUN/rollouts/STEP.parquet back: the groups of a step as they were scored, judged and trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from slimrl.errors import DataError
from slimrl.types import Group, Prompt, Sample, Score, Status, Verdict

COLUMNS: Final = (
    *("group_id", "sample_id", "rollout_id", "source", "prompt", "response", "label", "metadata", "status", "reason"),
    *("prompt_tokens", "tokens", "log_probs", "loss_mask", "weight_versions", "seed", "generate_seconds"),
    *("score_status", "value"),
    *("reward", "components", "score_reason", "score_seconds", "kept", "verdict_reason"),
)
"""Everything that a reward, a filter or an estimator reads."""
NEWER: Final = ("teacher_log_probs",)
"""What rollouts of earlier versions lack."""


def stored_steps(folder: Path) -> dict[int, Path]:
    """The files of a run's rollouts by step, in order."""
    return {int(path.stem): path for path in sorted(folder.glob("*.parquet")) if path.stem.isdigit()}


def read_rollout(path: Path) -> list[Group]:
    """The groups of one step with their scores and verdicts; DataError where the file is none of ours."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    groups: dict[int, Group] = {}
    try:
        with pq.ParquetFile(path) as file:
            missing = sorted(set(COLUMNS) - set(file.schema_arrow.names))
            if missing:
                raise DataError(f"{path}: no column {missing[0]!r}; is it a rollout of slimrl?")
            columns = [name for name in (*COLUMNS, *NEWER) if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=256, columns=columns):
                for row in batch.to_pylist():
                    group = groups.setdefault(row["group_id"], Group(row["group_id"], [], _verdict(row), row["source"]))
                    group.samples.append(_sample(row))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: not a rollout of slimrl: {error}") from error
    return list(groups.values())


def read_advantages(path: Path) -> dict[int, float]:
    """The recorded advantage of each sample that was trained on, by sample id; DataError as `read_rollout`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["sample_id", "advantage"])
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: not a rollout of slimrl: {error}") from error
    return {row["sample_id"]: row["advantage"] for row in table.to_pylist() if row["advantage"] is not None}


def _sample(row: Mapping[str, Any]) -> Sample:
    return Sample(
        group_id=row["group_id"],
        sample_id=row["sample_id"],
        rollout_id=row["rollout_id"],
        prompt=_prompt(row["prompt"]),
        prompt_tokens=row["prompt_tokens"],
        label=json.loads(row["label"]),
        metadata=json.loads(row["metadata"]),
        seed=row["seed"],
        tokens=row["tokens"],
        log_probs=row["log_probs"],
        loss_mask=row["loss_mask"],
        weight_versions=row["weight_versions"],
        response=row["response"],
        status=Status(row["status"]),
        reason=row["reason"],
        score=_score(row),
        generate_seconds=row["generate_seconds"],
        teacher_log_probs=row.get("teacher_log_probs") or [],
    )


def _score(row: Mapping[str, Any]) -> Score | None:
    if row["score_status"] is None:
        return None
    return Score(
        status=row["score_status"],
        value=row["value"],
        reward=json.loads(row["reward"]),
        components=json.loads(row["components"]),
        reason=row["score_reason"],
        seconds=row["score_seconds"],
    )


def _verdict(row: Mapping[str, Any]) -> Verdict | None:
    return None if row["kept"] is None else Verdict(row["kept"], row["verdict_reason"] or "")


def _prompt(text: str) -> Prompt:
    """The prompt as it was: a list of chat messages is stored as JSON."""
    if not text.startswith("[{"):
        return text
    try:
        messages = json.loads(text)
    except ValueError:
        return text
    is_chat = isinstance(messages, list) and all(
        isinstance(m, dict) and {"role", "content"} <= m.keys() for m in messages
    )
    return messages if is_chat else text
