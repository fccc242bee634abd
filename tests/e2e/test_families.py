"""A model with experts and latent attention in the whole loop: trainer, weights to the engine, engine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_engine_and_trainer_agree_on_a_deepseek_v3_after_every_step(
    make_job: Callable[..., Any], tmp_path: Path
) -> None:
    job = make_job(num_rollout="4")
    folder = tmp_path / "deepseek"
    shutil.copytree(job.checkpoint, folder)
    torch.manual_seed(0)
    config = DeepseekV3Config(
        vocab_size=9,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=2,
        first_k_dense_replace=1,
        num_attention_heads=4,
        n_routed_experts=8,
        num_experts_per_tok=4,
        n_group=4,
        topk_group=2,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=8,
        v_head_dim=8,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=8,
        pad_token_id=8,
    )
    DeepseekV3ForCausalLM(config).save_pretrained(folder)
    done = replace(job, checkpoint=folder).run()
    assert done.returncode == 0, done.stdout + done.stderr
    rows = job.metrics()
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert all(row["train/grad_norm"] > 0 for row in rows)
    assert max(row["train/log_prob_abs_diff_max"] for row in rows) < 1e-4
