"""The configuration: one frozen dataclass per category; only `cli` and `train.py` see them together."""

from __future__ import annotations

from dataclasses import dataclass, field

from slimrl.config.ckpt import CkptConfig
from slimrl.config.cluster import ClusterConfig
from slimrl.config.eval import EvalConfig
from slimrl.config.grpo import GrpoConfig
from slimrl.config.model import ModelConfig
from slimrl.config.observe import ObserveConfig
from slimrl.config.optimizer import OptimizerConfig
from slimrl.config.perf import PerfConfig
from slimrl.config.rollout import RolloutConfig
from slimrl.config.sglang import SglangConfig
from slimrl.config.trained import TrainedConfig


@dataclass(frozen=True)
class Config:
    """Everything a run is told; flags are the fields' names, whatever their category."""

    ckpt: CkptConfig = field(default_factory=CkptConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    perf: PerfConfig = field(default_factory=PerfConfig)
    sglang: SglangConfig = field(default_factory=SglangConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    trained: TrainedConfig = field(default_factory=TrainedConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    observe: ObserveConfig = field(default_factory=ObserveConfig)


__all__ = [
    "CkptConfig",
    "ClusterConfig",
    "Config",
    "EvalConfig",
    "GrpoConfig",
    "ModelConfig",
    "ObserveConfig",
    "OptimizerConfig",
    "PerfConfig",
    "RolloutConfig",
    "SglangConfig",
    "TrainedConfig",
]
