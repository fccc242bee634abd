"""CKPT_ARGS: where the model comes from and where checkpoints go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class CkptConfig:
    """Checkpoint loading and saving."""

    hf_checkpoint: Path | None = None
    """Hugging Face checkpoint folder: tokenizer, model shape and, where nothing else is loaded, the weights. Required."""
    ref_load: Path | None = None
    """Reference model (HF folder, a checkpoint of slimrl or of Megatron) for the KL loss, and the first weights where --load holds no checkpoint. Default: --hf-checkpoint."""
    critic_load: Path | None = None
    """First weights of the critic (HF folder, or a checkpoint of slimrl: its critic's if it has one, or of Megatron). Default: those that the policy starts from."""
    load: Path | None = None
    """Folder of checkpoints to resume from; usually the same as --save. Of a folder of Megatron (or slime), or of Hugging Face, the weights alone are taken. Where it holds none, training starts from --ref-load or --hf-checkpoint."""
    save: Path | None = None
    """Folder that checkpoints are written to. Default: checkpoints/ in the run folder."""
    save_interval: int | None = None
    """Rollout steps between checkpoints. Unset: one checkpoint at the end if --save, --save-hf or --lora-rank is given, and one on Ctrl-C."""
    max_checkpoints_to_keep: int | None = None
    """Checkpoints to keep in --save: older ones are deleted once a new one is whole. Unset: all."""
    ckpt_step: int | None = None
    """Step of the checkpoint in --load to go on from. Unset: the one written last whose checksums fit."""
    no_save_optim: bool = False
    """Save without optimizer state: a third of the size or less, but such a checkpoint cannot be resumed."""
    ckpt_format: Literal["safetensors", "torch_dist"] = "safetensors"
    """How checkpoints are written: whole tensors by the trainer's first process, weights as a Hugging Face checkpoint; or by each process what it has, as Megatron does. Both load at any layout."""
    async_save: bool = False
    """Copy what a checkpoint holds into memory and write it, and --save-hf's folder, while the next steps run."""
    save_hf: str | None = None
    """Folder that a Hugging Face checkpoint is written to beside each checkpoint; {rollout_id} stands for the rollouts that its weights have seen. With --lora-rank a PEFT adapter. Replaces what was there."""
