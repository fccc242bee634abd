"""Tiny models and batches for the trainer's tests.

They run in pytest's own process: Megatron is given a view of torch of its own (see compat.py), so nothing that other
tests import changes. The process groups are this folder's and are left at its end.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Glm4Config,
    Glm4ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from slimrl.config import CkptConfig, GrpoConfig, ModelConfig, OptimizerConfig, PerfConfig
from slimrl.megatron.parallel import shut_down_parallel
from slimrl.megatron.trainer import MegatronTrainer
from slimrl.types import TrainBatch

VOCABULARY = 83
FAMILIES = (
    "llama",
    "llama-tied",
    "llama3-rope",
    "mistral",
    "qwen2",
    "qwen3",
    "qwen3-tied",
    "qwen3-moe",
    "glm4",
    "deepseek-v3",
    "deepseek-v3-yarn",
)


@pytest.fixture(scope="package", autouse=True)
def _leave_process_groups() -> Iterator[None]:
    yield
    shut_down_parallel()


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Each family, for a test that does not choose some."""
    return str(request.param)


@pytest.fixture(scope="package")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random HF checkpoint of each family, large weights so that mistakes show."""
    return {name: _save_model(name, tmp_path_factory.mktemp(name)) for name in FAMILIES}


def _save_model(name: str, folder: Path) -> Path:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 1000.0}
    if name == "llama3-rope":
        rope = {
            "rope_type": "llama3",
            "rope_theta": 1000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": name.endswith("tied"),
        "rope_parameters": rope,
    }
    state = torch.get_rng_state()
    torch.manual_seed(FAMILIES.index(name))
    model: PreTrainedModel
    if name.startswith("llama"):
        model = LlamaForCausalLM(LlamaConfig(**shape))
    elif name == "mistral":
        model = MistralForCausalLM(MistralConfig(**shape, head_dim=16, sliding_window=None))
    elif name == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**shape))
    elif name == "qwen3-moe":
        experts = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 40, "norm_topk_prob": True}
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**shape, **experts, head_dim=16, mlp_only_layers=[1]))
    elif name == "glm4":
        special = {"pad_token_id": 0, "eos_token_id": 0}
        model = Glm4ForCausalLM(Glm4Config(**shape, **special, head_dim=16))
    elif name.startswith("deepseek-v3"):
        model = DeepseekV3ForCausalLM(DeepseekV3Config(**shape | _deepseek_v3(is_yarn=name.endswith("yarn"))))
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**shape, head_dim=16))
    for name_, buffer in model.named_buffers():
        if name_.endswith("e_score_correction_bias"):
            buffer.normal_(0, 0.1)
    draw_weights(model)
    torch.set_rng_state(state)
    model.save_pretrained(folder)
    return folder


def draw_weights(model: PreTrainedModel) -> None:
    """Large ones, so that mistakes show."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data.uniform_(0.5, 1.5)
        else:
            parameter.data.normal_(0, 0.15)


@pytest.fixture(scope="session", name="draw_weights")
def _draw_weights() -> Callable[[PreTrainedModel], None]:
    return draw_weights


def _deepseek_v3(*, is_yarn: bool) -> dict[str, Any]:
    """The other of its two ways to make queries comes with yarn."""
    rope = {"rope_type": "default", "rope_theta": 1000.0}
    if is_yarn:
        rope |= {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 4.0}
        rope |= {"mscale": 1.0, "mscale_all_dim": 1.0}
    return {
        "num_key_value_heads": 6,
        "q_lora_rank": None if is_yarn else 24,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8,
        "v_head_dim": 10,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 24,
        "n_routed_experts": 8,
        "n_shared_experts": 2,
        "num_experts_per_tok": 4,
        "n_group": 4,
        "topk_group": 2,
        "rope_parameters": rope,
    }


@dataclass
class Published:
    """A transport that keeps what it was given."""

    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    version: int = -1

    def publish(self, weights: Any, version: int) -> None:
        self.weights = {name: tensor.clone() for name, tensor in weights}
        self.version = version


def given_advantages(rewards: np.ndarray, group_ids: np.ndarray) -> np.ndarray:
    """The rewards themselves: a test then says what each sample's advantage is."""
    return rewards


@pytest.fixture(scope="package")
def launch() -> Callable[..., None]:
    """Run a file as so many processes at once, each with a folder and its rank; where one fails the others end too."""

    def run(script: str, folder: Path, size: int, *words: str) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        logs = [folder / f"log{size}-{rank}" for rank in range(size)]
        processes = []
        for rank, log in enumerate(logs):
            command = [sys.executable, "-W", "ignore", script, str(folder), str(rank), *words]
            with log.open("w") as output:
                processes.append(subprocess.Popen(command, env=environment, stdout=output, stderr=output))
        try:
            end = time.monotonic() + 800
            while any(process.poll() is None for process in processes) and time.monotonic() < end:
                if any(process.poll() for process in processes):
                    break  # the others wait for it
                time.sleep(0.1)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        assert not any(process.returncode for process in processes), "\n".join(log.read_text()[-3000:] for log in logs)

    return run


@pytest.fixture(scope="package")
def make_trainer() -> Callable[..., MegatronTrainer]:
    """Build a trainer on a checkpoint; keyword arguments replace the defaults."""

    def make(checkpoint: Path, **kwargs: Any) -> MegatronTrainer:
        settings: dict[str, Any] = {
            "ckpt": CkptConfig(hf_checkpoint=checkpoint),
            "model": ModelConfig(),
            "rollout_temperature": 1.0,
            "grpo": GrpoConfig(),
            "optimizer": OptimizerConfig(lr=1e-2, weight_decay=0.1, adam_beta2=0.95),
            "perf": PerfConfig(),
            "num_steps_per_rollout": 1,
            "global_batch_size": 64,
            "total_steps": 10,
            "advantage": given_advantages,
            "transport": Published(),
            "device": "cpu",
            "dtype": "float32",
        }
        trainer = MegatronTrainer(**{**settings, **kwargs})
        trainer.load(None)
        return trainer

    return make


@pytest.fixture(scope="package")
def make_batch() -> Callable[..., TrainBatch]:
    """A random batch of groups whose prompts share a beginning, with duplicates, masked tokens and a fan-out."""

    def make(seed: int = 0, groups: int = 4, samples: int = 4, advantages: Sequence[float] = ()) -> TrainBatch:
        rng = np.random.default_rng(seed)
        system = rng.integers(0, VOCABULARY, 5)
        count = groups * samples
        prompts = [np.concatenate((system, rng.integers(0, VOCABULARY, 3 + g % 2))) for g in range(groups)]
        responses = [rng.integers(0, 4, rng.integers(1, 8)) for _ in range(count)]
        responses[1] = responses[0]
        masks = [rng.integers(0, 5, len(response)) > 0 for response in responses]
        masks[2][:] = False
        rollouts = np.arange(count)
        rollouts[count - 1] = rollouts[count - 2]
        num_tokens = sum(map(len, responses))
        pairs = zip(np.repeat(np.arange(groups), samples), responses, strict=True)
        return TrainBatch(
            step=seed,
            tokens=np.concatenate([np.concatenate((prompts[g], r)) for g, r in pairs]).astype(np.int32),
            prompt_lengths=np.repeat([len(p) for p in prompts], samples).astype(np.int32),
            response_lengths=np.array([len(r) for r in responses], np.int32),
            loss_mask=np.concatenate(masks).astype(np.uint8),
            log_probs=-rng.random(num_tokens).astype(np.float32),
            weight_versions=np.zeros(num_tokens, np.int32),
            rewards=np.array(advantages if len(advantages) else rng.normal(size=count), np.float32),
            group_ids=np.repeat(np.arange(groups), samples),
            rollout_ids=rollouts,
            sample_ids=np.arange(count),
        )

    return make
