"""RUN/rollouts/STEP.parquet: every sample of a step with its prompt, tokens, scores, verdict and advantage."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slimrl.types import Group, Sample


def write_rollout(folder: Path, step: int, groups: Sequence[Group], advantages: Mapping[int, float]) -> Path:
    """Write one step's groups; `advantages` maps sample ids to values, a sample that was not trained on has none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [_row(group, sample, advantages.get(sample.sample_id)) for group in groups for sample in group]
    path = folder / f"{step:06d}.parquet"
    scratch = path.with_name(f".{path.name}.tmp")
    pq.write_table(pa.Table.from_pylist(rows, schema=_schema()), scratch, compression="zstd")
    scratch.replace(path)
    return path


def _row(group: Group, sample: Sample, advantage: float | None) -> dict[str, Any]:
    score = sample.score
    return {
        "group_id": group.group_id,
        "sample_id": sample.sample_id,
        "rollout_id": sample.rollout_id,
        "source": group.source,
        "prompt": sample.prompt if isinstance(sample.prompt, str) else json.dumps(sample.prompt, ensure_ascii=False),
        "response": sample.response,
        "label": json.dumps(sample.label, ensure_ascii=False, default=str),
        "metadata": json.dumps(sample.metadata, ensure_ascii=False, default=str),
        "status": str(sample.status),
        "reason": sample.reason,
        "prompt_tokens": sample.prompt_tokens,
        "tokens": sample.tokens,
        "log_probs": sample.log_probs,
        "teacher_log_probs": sample.teacher_log_probs or None,
        "loss_mask": sample.loss_mask,
        "weight_versions": sample.weight_versions,
        "seed": sample.seed,
        "generate_seconds": sample.generate_seconds,
        "score_status": score.status if score else None,
        "value": score.value if score else None,
        "reward": json.dumps(score.reward, ensure_ascii=False, default=str) if score else None,
        "components": json.dumps(dict(score.components)) if score else None,
        "score_reason": score.reason if score else None,
        "score_seconds": score.seconds if score else None,
        "kept": group.verdict.keep if group.verdict else None,
        "verdict_reason": group.verdict.reason if group.verdict else None,
        "advantage": advantage,
    }


def _schema() -> Any:  # pyarrow has no types
    import pyarrow as pa

    text, integer, number = pa.string(), pa.int64(), pa.float64()
    return pa.schema(
        {
            "group_id": integer,
            "sample_id": integer,
            "rollout_id": integer,
            "source": text,
            "prompt": text,
            "response": text,
            "label": text,
            "metadata": text,
            "status": text,
            "reason": text,
            "prompt_tokens": pa.list_(pa.int32()),
            "tokens": pa.list_(pa.int32()),
            "log_probs": pa.list_(pa.float32()),
            "teacher_log_probs": pa.list_(pa.float32()),
            "loss_mask": pa.list_(pa.int8()),
            "weight_versions": pa.list_(pa.int32()),
            "seed": integer,
            "generate_seconds": number,
            "score_status": text,
            "value": number,
            "reward": text,
            "components": text,
            "score_reason": text,
            "score_seconds": number,
            "kept": pa.bool_(),
            "verdict_reason": text,
            "advantage": number,
        }
    )
