"""How the trainer's work is spread over its processes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from slimrl.config.cluster import ClusterConfig
from slimrl.config.optimizer import OptimizerConfig
from slimrl.config.perf import PerfConfig


@dataclass(frozen=True)
class Layout:
    """Sizes of the trainer's parallel groups; what is left of the processes trains other samples."""

    world_size: int = 1
    """Processes in all."""
    tensor_size: int = 1
    """Processes that share each matrix."""
    pipeline_size: int = 1
    """Processes that have other layers each."""
    chunks_per_stage: int = 1
    """Parts that the layers of one pipeline stage are cut into (interleaved schedule)."""
    context_size: int = 1
    """Processes that share the tokens of a micro-batch."""
    expert_size: int = 1
    """Processes that have other experts each."""
    expert_tensor_size: int = 1
    """Processes that share each matrix of an expert."""
    is_sequence_parallel: bool = False
    """Whether tensor-parallel processes also share the tokens between the matrices."""
    shares_optimizer: bool = False
    """Whether data-parallel processes share the optimizer's state."""

    @property
    def model_size(self) -> int:
        """Processes that a micro-batch passes through."""
        return self.tensor_size * self.pipeline_size * self.context_size

    @property
    def data_size(self) -> int:
        """Processes, or groups of them, that train other samples each."""
        return self.world_size // self.model_size

    @property
    def expert_data_size(self) -> int:
        """Processes, or groups of them, that have the same experts."""
        return self.world_size // (self.expert_tensor_size * self.expert_size * self.pipeline_size)

    @property
    def is_single(self) -> bool:
        """Whether one process does everything."""
        return self.world_size == 1

    @property
    def token_multiple(self) -> int:
        """What the number of tokens of a micro-batch is a multiple of."""
        # each of the context's processes has two runs of tokens, so that late and early ones are shared equally
        between = 1 if self.context_size == 1 else 2 * self.context_size
        return between * (self.tensor_size if self.is_sequence_parallel else 1)


@dataclass(frozen=True)
class Recompute:
    """What of the forward pass is computed again in the backward pass instead of being kept."""

    granularity: Literal["full", "selective"] | None = None
    method: Literal["uniform", "block"] | None = None
    num_layers: int | None = None


SINGLE, KEEP_ALL = Layout(), Recompute()


def layout_of(cluster: ClusterConfig, perf: PerfConfig, optimizer: OptimizerConfig) -> Layout:
    """The layout that the flags ask for."""
    return Layout(
        world_size=cluster.actor_num_nodes * cluster.actor_num_gpus_per_node,
        tensor_size=perf.tensor_model_parallel_size,
        pipeline_size=perf.pipeline_model_parallel_size,
        chunks_per_stage=perf.virtual_pipeline_model_parallel_size,
        context_size=perf.context_parallel_size,
        expert_size=perf.expert_model_parallel_size,
        expert_tensor_size=perf.expert_tensor_parallel_size or perf.tensor_model_parallel_size,
        is_sequence_parallel=perf.sequence_parallel,
        shares_optimizer=optimizer.use_distributed_optimizer,
    )


def recompute_of(perf: PerfConfig) -> Recompute:
    """What the flags ask for."""
    return Recompute(perf.recompute_granularity, perf.recompute_method, perf.recompute_num_layers)


def check_layout(cluster: ClusterConfig, perf: PerfConfig, optimizer: OptimizerConfig) -> Iterator[str]:
    """Every broken rule, one sentence each; what the model allows has an owner of its own."""
    layout = layout_of(cluster, perf, optimizer)
    if min(layout.world_size, layout.model_size, layout.expert_size, layout.expert_tensor_size) < 1:
        return  # reported with what is out of range
    nodes = cluster.actor_num_nodes
    processes = f"--actor-num-gpus-per-node {cluster.actor_num_gpus_per_node}"
    if nodes > 1:
        processes = f"--actor-num-nodes {nodes} x {processes} = {layout.world_size}"
        if cluster.ray_address is None:
            yield (
                f"--actor-num-nodes {nodes} needs the --ray-address of a cluster of as many machines; without it Ray runs "
                "on this machine alone"
            )
    yield from _products(layout, nodes, processes)
    if layout.is_sequence_parallel and layout.tensor_size == 1:
        yield "--sequence-parallel has no effect without a --tensor-model-parallel-size above 1"
    if layout.chunks_per_stage > 1 and layout.pipeline_size == 1:
        yield (
            f"--virtual-pipeline-model-parallel-size {layout.chunks_per_stage} has no effect without a "
            "--pipeline-model-parallel-size above 1"
        )
    if layout.shares_optimizer and optimizer.optimizer != "adam":
        yield f"--use-distributed-optimizer shares the state of adam; --optimizer {optimizer.optimizer} cannot have it"
    elif layout.shares_optimizer and max(layout.data_size * layout.context_size, layout.expert_data_size) <= 1:
        yield f"--use-distributed-optimizer has no effect: with {processes} no two processes have the same weights"
    if perf.balance_data and layout.data_size <= 1:
        yield f"--balance-data has no effect: with {processes} all samples go to the same"
    if perf.balance_by_flops and not perf.balance_data:
        yield "--balance-by-flops has no effect without --balance-data"
    yield from _recompute(perf)


def _products(layout: Layout, nodes: int, processes: str) -> Iterator[str]:
    if layout.world_size % layout.model_size:
        yield (
            f"{processes} is not a multiple of --tensor-model-parallel-size {layout.tensor_size} x "
            f"--pipeline-model-parallel-size {layout.pipeline_size} x --context-parallel-size {layout.context_size} = "
            f"{layout.model_size}; set --actor-num-gpus-per-node {_per_node(layout.model_size, nodes)} or a multiple of it"
        )
    of_experts = layout.expert_tensor_size * layout.expert_size * layout.pipeline_size
    has_own_layout = layout.expert_size > 1 or layout.expert_tensor_size != layout.tensor_size
    if has_own_layout and layout.world_size % of_experts:
        yield (
            f"{processes} is not a multiple of --expert-tensor-parallel-size {layout.expert_tensor_size} x "
            f"--expert-model-parallel-size {layout.expert_size} x --pipeline-model-parallel-size "
            f"{layout.pipeline_size} = {of_experts}; set --actor-num-gpus-per-node {_per_node(of_experts, nodes)} or a "
            "multiple of it"
        )


def _per_node(processes: int, nodes: int) -> int:
    """The fewest on each of so many machines that make a multiple of so many processes."""
    return processes // math.gcd(processes, nodes)


def _recompute(perf: PerfConfig) -> Iterator[str]:
    given = {"--recompute-method": perf.recompute_method, "--recompute-num-layers": perf.recompute_num_layers}
    if perf.recompute_granularity != "full":
        yield from (
            f"{flag} {value} has no effect without --recompute-granularity full"
            for flag, value in given.items()
            if value is not None
        )
        return
    for flag, value in given.items():
        if value is None:
            yield f"--recompute-granularity full needs {flag}" + (
                ": uniform or block" if flag.endswith("method") else ": how many layers"
            )
