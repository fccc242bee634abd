"""Megatron's view of torch is Megatron's alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from slimrl.config import CkptConfig, ModelConfig
from slimrl.errors import ConfigError, UsageError
from slimrl.megatron import compat
from slimrl.megatron.trainer import MegatronTrainer


@pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA nothing is replaced")
def test_torch_itself_stays_as_it_is(
    checkpoints: dict[str, Path], make_trainer: Callable[..., MegatronTrainer]
) -> None:
    make_trainer(checkpoints["llama"])
    from megatron.core.optimizer import optimizer as megatron_optimizer

    assert megatron_optimizer.torch is not torch
    assert megatron_optimizer.torch.zeros(1, device="cuda").device.type == "cpu"
    assert megatron_optimizer.torch.cuda.current_device() == torch.device("cpu")
    assert isinstance(torch.zeros, type(torch.ones_like))
    with pytest.raises((AssertionError, RuntimeError)):
        torch.zeros(1, device="cuda")


def test_an_old_megatron_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "version", lambda name: "0.15.3")
    with pytest.raises(UsageError, match=r"megatron-core 0\.15\.3 is too old; install megatron-core>=0\.16\.1"):
        compat.prepare_megatron(torch.device("cpu"))


def test_wrong_model_flags_stop_the_trainer(
    checkpoints: dict[str, Path], make_trainer: Callable[..., MegatronTrainer]
) -> None:
    with pytest.raises(ConfigError, match="--num-layers 7 but the checkpoint's is 3"):
        make_trainer(checkpoints["llama"], model=ModelConfig(num_layers=7))


def test_a_trainer_needs_an_hf_checkpoint(make_trainer: Callable[..., MegatronTrainer], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--hf-checkpoint is required"):
        make_trainer(tmp_path, ckpt=CkptConfig())


def test_publishing_gives_every_tensor_under_its_hf_name(
    checkpoints: dict[str, Path], make_trainer: Callable[..., MegatronTrainer]
) -> None:
    trainer = make_trainer(checkpoints["llama"])
    metrics = trainer.publish(7)
    transport = trainer._transport
    assert transport.version == 7  # type: ignore[attr-defined]
    assert "model.layers.2.self_attn.k_proj.weight" in transport.weights  # type: ignore[attr-defined]
    assert metrics["perf/publish_s"] >= 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA nothing is replaced")
def test_importing_megatron_on_a_cpu_loads_no_compiler_and_keeps_torch_compile() -> None:
    code = (
        "import sys, torch; compile_function = torch.compile\n"
        "from slimrl.megatron.compat import prepare_megatron\n"
        "prepare_megatron(torch.device('cpu'))\n"
        "sys.exit('torch._inductor' in sys.modules or torch.compile is not compile_function)"
    )
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], check=False).returncode == 0
