"""Which layouts a model allows; imports nothing heavy, so that it is known before a process is started."""

from __future__ import annotations

from collections.abc import Iterator

from slimrl.config.layout import KEEP_ALL, Layout, Recompute
from slimrl.megatron.shape import ModelShape


def training_problems(shape: ModelShape, layout: Layout, recompute: Recompute = KEEP_ALL) -> list[str]:
    """What of a model cannot be trained with a layout, one sentence each."""
    stages = layout.pipeline_size * layout.chunks_per_stage
    problems = layout_problems(
        shape, layout.tensor_size, layout.pipeline_size, expert_tensor_size=layout.expert_tensor_size
    )
    if layout.chunks_per_stage > 1 and shape.num_layers % stages and not shape.num_layers % layout.pipeline_size:
        problems.append(
            f"--pipeline-model-parallel-size {layout.pipeline_size} x --virtual-pipeline-model-parallel-size "
            f"{layout.chunks_per_stage} does not divide the model's {shape.num_layers} layers"
        )
    if shape.num_query_groups % layout.tensor_size and not shape.num_attention_heads % layout.tensor_size:
        problems.append(
            f"--tensor-model-parallel-size {layout.tensor_size} does not divide the model's {shape.num_query_groups} "
            "query groups: a rank has whole ones"
        )
    size = recompute.num_layers
    if recompute.method == "uniform" and size and not shape.num_layers % stages and shape.num_layers // stages % size:
        problems.append(
            f"--recompute-num-layers {size} with --recompute-method uniform does not divide the "
            f"{shape.num_layers // stages} layers that are computed together; name a number that does"
        )
    return [*dict.fromkeys(problems), *_experts(shape, layout)]


def _experts(shape: ModelShape, layout: Layout) -> Iterator[str]:
    if shape.moe is None:
        if layout.expert_size > 1:
            yield f"--expert-model-parallel-size {layout.expert_size} has no effect: the model has no experts"
        if layout.expert_tensor_size not in (1, layout.tensor_size):
            yield f"--expert-tensor-parallel-size {layout.expert_tensor_size} has no effect: the model has no experts"
        if layout.shares_optimizer and layout.data_size * layout.context_size <= 1 < layout.expert_data_size:
            yield "--use-distributed-optimizer has no effect: no two processes have the same weights"
        return
    if shape.moe.num_experts % layout.expert_size:
        yield (
            f"--expert-model-parallel-size {layout.expert_size} does not divide the model's "
            f"{shape.moe.num_experts} experts"
        )
    if layout.tensor_size > 1 and not layout.is_sequence_parallel:
        yield (
            f"--tensor-model-parallel-size {layout.tensor_size} of a model with experts needs --sequence-parallel: "
            "Megatron trains experts only so"
        )


def layout_problems(
    shape: ModelShape, tensor_size: int, pipeline_size: int, *, expert_tensor_size: int | None = None
) -> list[str]:
    """What of a model cannot be shared equally by so many ranks, one sentence each.

    `expert_tensor_size`: ranks that share each matrix of an expert; None: as many as share the others.
    """
    groups = shape.num_query_groups
    shared = {
        "attention heads": shape.num_attention_heads,
        "channels of the feed-forward layer": shape.ffn_hidden_size,
    }
    if shape.mla is not None:
        shared["channels of the latent key and value"] = shape.mla.kv_lora_rank + shape.mla.rope_channels
        shared["channels of the latent query"] = shape.mla.q_lora_rank or 0
    if shape.moe is not None:
        shared["channels of the shared experts"] = shape.moe.shared_ffn_hidden_size or 0
    problems = [
        f"--tensor-model-parallel-size {tensor_size} does not divide the model's {count} {what}"
        for what, count in shared.items()
        if count % tensor_size
    ]
    expert_size, own = expert_tensor_size or tensor_size, expert_tensor_size not in (None, tensor_size)
    if shape.moe is not None and shape.moe.ffn_hidden_size % expert_size:
        problems.append(
            f"--{'expert-tensor' if own else 'tensor-model'}-parallel-size {expert_size} does not divide the model's "
            f"{shape.moe.ffn_hidden_size} channels of an expert"
        )
    if groups % tensor_size and tensor_size % groups:
        problems.append(
            f"--tensor-model-parallel-size {tensor_size} and the model's {groups} query groups do not divide"
        )
    if shape.num_layers % pipeline_size:
        problems.append(
            f"--pipeline-model-parallel-size {pipeline_size} does not divide the model's {shape.num_layers} layers"
        )
    return problems
