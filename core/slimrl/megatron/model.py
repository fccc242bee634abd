"""The policy as a Megatron GPT model over packed tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.transformer.transformer_config import MLATransformerConfig, TransformerConfig
from torch import Tensor

from slimrl.config.layout import KEEP_ALL, SINGLE, Layout, Recompute
from slimrl.megatron.attention import PackedSegments
from slimrl.megatron.compat import mark_parameters, tensors_stay_on, without_megatron_warnings
from slimrl.megatron.convert.place import Place, local_rules, padded_vocabulary
from slimrl.megatron.embedding import embed, embed_share
from slimrl.megatron.layers import block_spec
from slimrl.megatron.mla_shape import MlaShape
from slimrl.megatron.moe_shape import MoeShape
from slimrl.megatron.rotary import inverse_frequencies, rotary_angles, rotation
from slimrl.megatron.shape import ModelShape
from slimrl.megatron.vocabulary import VocabularyShare


@dataclass(frozen=True)
class PackedTokens:
    """What the model computes in one pass."""

    tokens: Tensor
    """[nodes]"""
    positions: Tensor
    """[nodes]"""
    segments: PackedSegments
    predictors: Tensor
    """[rows] nodes whose hidden states are wanted."""

    def __len__(self) -> int:
        return self.tokens.size(0)


class PackedGpt(GPTModel):  # type: ignore[misc]  # Megatron has no types
    """Megatron's GPT model, returning hidden states of chosen tokens instead of logits of all."""

    frequencies: Tensor
    num_words: int
    """Rows of the whole vocabulary without padding."""
    vocabulary_share: VocabularyShare | None
    """What of the vocabulary this tensor-parallel rank has; None: all."""
    value_head: torch.nn.Linear | None
    """A critic's last layer, in float32; None in a policy, and before the last pipeline stage."""

    def forward(self, packed: PackedTokens) -> Tensor:
        """Final, normalised hidden states of `packed.predictors`: [rows, hidden]; before the last stage, all states."""
        embedded = self._embed(packed.tokens)[:, None] if self.pre_process else None
        if embedded is not None and self.config.recompute_granularity == "full" and torch.is_grad_enabled():
            # layers are computed again only for an input with a gradient, which a frozen embedding's has not
            embedded.requires_grad_()
        positions, is_interleaved = packed.positions, self.config.rotary_interleaved
        angles = None
        if self.config.multi_latent_attention:
            angles = rotary_angles(positions, self.frequencies, interleaved=is_interleaved)
        else:
            packed.segments.rotation = rotation(positions, self.frequencies, is_interleaved=is_interleaved)
        hidden: Tensor = self.decoder(
            hidden_states=embedded,
            attention_mask=None,
            rotary_pos_emb=angles,
            packed_seq_params=packed.segments,
        )
        if not self.post_process:
            return hidden
        hidden = hidden.squeeze(1)
        if self.vocabulary_share is not None:
            # each rank's gradient is that of its share of the vocabulary, or of the value head, which every rank has
            is_of_share = self.value_head is None
            if self.config.sequence_parallel:
                hidden = gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=is_of_share)
            elif is_of_share:
                hidden = copy_to_tensor_model_parallel_region(hidden)
        return hidden.index_select(0, packed.predictors)

    def _embed(self, tokens: Tensor) -> Tensor:
        weight: Tensor = self.embedding.word_embeddings.weight
        if self.vocabulary_share is None:
            return embed(tokens, weight)
        part = embed_share(tokens, weight, self.vocabulary_share)
        embedded: Tensor = (
            reduce_scatter_to_sequence_parallel_region(part)
            if self.config.sequence_parallel
            else reduce_from_tensor_model_parallel_region(part)
        )
        return embedded

    @property
    def output_weight(self) -> Tensor:
        """[vocabulary, hidden] rows that turn hidden states into logits."""
        weight: Tensor = (
            self.shared_embedding_or_output_weight()
            if self.share_embeddings_and_output_weights
            else self.output_layer.weight
        )
        return weight


def build_model(shape: ModelShape, *, device: torch.device, dtype: torch.dtype) -> PackedGpt:
    """A model of that shape with weights that are still to be loaded. Needs `init_parallel`."""
    (model,) = build_chunks(shape, device=device, dtype=dtype)
    return model


def build_chunks(
    shape: ModelShape,
    layout: Layout = SINGLE,
    recompute: Recompute = KEEP_ALL,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> list[PackedGpt]:
    """This process's part of a model: one chunk of layers, or several for an interleaved pipeline."""
    is_interleaved = layout.chunks_per_stage > 1
    chunks = []
    for chunk in range(layout.chunks_per_stage):
        with without_megatron_warnings(), tensors_stay_on(device):
            model = _build(shape, layout, recompute, chunk if is_interleaved else None, device, dtype)
        model.to(device)
        model.frequencies = inverse_frequencies(shape).to(device)
        model.num_words = shape.vocab_size
        model.vocabulary_share = _vocabulary_share(shape)
        model.value_head = None
        if shape.has_value_head and model.post_process:
            model.value_head = torch.nn.Linear(shape.hidden_size, 1, device=device, dtype=torch.float32)
        _make_router_biases_parameters(model)
        _mark_shared(model, shape)
        mark_parameters(model)
        model.train()
        chunks.append(model)
    return chunks


def _mark_shared(model: PackedGpt, shape: ModelShape) -> None:
    """Say which parameters differ between tensor-parallel ranks, for the gradient norm, and who sums their gradients.

    Megatron says the first only of those that it fills itself. 0.16 says of experts that are not spread that the
    processes which share other matrices sum their gradients, also where experts are shared among others.
    """
    place = place_of(model)
    has_own_group = place.expert_size > 1 or place.expert_tensor_size != place.tensor_size
    parameters = dict(model.named_parameters())
    for name, rule in local_rules(shape, place):
        parameters[name].tensor_model_parallel = rule.share is not None
        if rule.expert is not None:
            parameters[name].allreduce = not has_own_group


def _vocabulary_share(shape: ModelShape) -> VocabularyShare | None:
    size = parallel_state.get_tensor_model_parallel_world_size()
    if size == 1:
        return None
    num_rows = padded_vocabulary(shape.vocab_size, size) // size
    start = parallel_state.get_tensor_model_parallel_rank() * num_rows
    group = parallel_state.get_tensor_model_parallel_group()
    return VocabularyShare(start, min(start + num_rows, shape.vocab_size), group)


def place_of(model: PackedGpt) -> Place:
    """What of the whole model this rank's model is."""
    layers = [layer.layer_number - 1 for layer in model.decoder.layers]
    return Place(
        tensor_rank=parallel_state.get_tensor_model_parallel_rank(),
        tensor_size=parallel_state.get_tensor_model_parallel_world_size(),
        expert_rank=parallel_state.get_expert_model_parallel_rank(),
        expert_size=parallel_state.get_expert_model_parallel_world_size(),
        expert_tensor_rank=parallel_state.get_expert_tensor_parallel_rank(),
        expert_tensor_size=parallel_state.get_expert_tensor_parallel_world_size(),
        layers=range(layers[0], layers[-1] + 1),
        has_embedding=model.pre_process,
        has_output=model.post_process,
    )


def _build(
    shape: ModelShape,
    layout: Layout,
    recompute: Recompute,
    chunk: int | None,
    device: torch.device,
    dtype: torch.dtype,
) -> PackedGpt:
    kind = TransformerConfig if shape.mla is None else MLATransformerConfig
    tensor_size = parallel_state.get_tensor_model_parallel_world_size()
    config = kind(
        num_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        ffn_hidden_size=shape.ffn_hidden_size,
        num_attention_heads=shape.num_attention_heads,
        num_query_groups=shape.num_query_groups,
        kv_channels=shape.kv_channels,
        layernorm_epsilon=shape.norm_epsilon,
        normalization="RMSNorm",
        qk_layernorm=shape.has_qk_norm,
        rotary_interleaved=shape.has_interleaved_rotary,
        gated_linear_unit=True,
        activation_func=F.silu,
        # the activation of layers.py stands where Transformer Engine's would
        use_te_activation_func=True,
        add_bias_linear=False,
        add_qkv_bias=shape.has_qkv_bias,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        tensor_model_parallel_size=tensor_size,
        sequence_parallel=layout.is_sequence_parallel,
        pipeline_model_parallel_size=parallel_state.get_pipeline_model_parallel_world_size(),
        virtual_pipeline_model_parallel_size=None if chunk is None else layout.chunks_per_stage,
        # the one process of a CPU has nothing to exchange
        moe_token_dispatcher_type="allgather" if device.type == "cpu" and layout.is_single else "alltoall",
        # micro-batches differ in their numbers of tokens
        variable_seq_lengths=layout.pipeline_size > 1,
        # the interleaved schedule sends and receives one by one
        batch_p2p_comm=chunk is None,
        overlap_p2p_comm=chunk is not None,
        recompute_granularity=recompute.granularity,
        recompute_method=recompute.method,
        recompute_num_layers=recompute.num_layers,
        expert_model_parallel_size=parallel_state.get_expert_model_parallel_world_size(),
        expert_tensor_parallel_size=parallel_state.get_expert_tensor_parallel_world_size(),
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype is torch.bfloat16,
        use_cpu_initialization=True,
        # the weights come from a checkpoint
        perform_initialization=False,
        gradient_accumulation_fusion=False,
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        persist_layer_norm=False,
        apply_rope_fusion=False,
        **({} if shape.moe is None else _moe_settings(shape.moe)),
        **({} if shape.mla is None else _mla_settings(shape.mla)),
    )
    ends = {} if chunk is None else {"ignore_virtual": False, "vp_stage": chunk}
    return PackedGpt(
        config=config,
        transformer_layer_spec=block_spec(config, has_post_norms=shape.has_post_norms, chunk=chunk),
        vocab_size=padded_vocabulary(shape.vocab_size, tensor_size),
        max_sequence_length=shape.max_positions,
        pre_process=parallel_state.is_pipeline_first_stage(**ends),
        post_process=parallel_state.is_pipeline_last_stage(**ends),
        share_embeddings_and_output_weights=shape.has_tied_embeddings,
        position_embedding_type="none",
        vp_stage=chunk,
    )


def _moe_settings(moe: MoeShape) -> dict[str, object]:
    return {
        "num_moe_experts": moe.num_experts,
        "moe_ffn_hidden_size": moe.ffn_hidden_size,
        "moe_shared_expert_intermediate_size": moe.shared_ffn_hidden_size,
        "moe_layer_freq": [int(is_moe) for is_moe in moe.is_moe_layer],
        "moe_router_topk": moe.top_k,
        "moe_router_num_groups": moe.num_groups,
        "moe_router_group_topk": moe.top_groups,
        "moe_router_topk_scaling_factor": None if moe.scaling_factor == 1 else moe.scaling_factor,
        "moe_router_score_function": moe.score_function,
        # softmax over the chosen experts only is softmax over all, normalised
        "moe_router_pre_softmax": moe.score_function == "softmax" and not moe.normalises_chosen,
        "moe_router_dtype": "fp32",
        "moe_router_enable_expert_bias": moe.has_router_bias,
        "moe_router_bias_update_rate": 0.0,
        # reinforcement learning keeps the routing that pre-training balanced
        "moe_router_load_balancing_type": "none",
        "moe_aux_loss_coeff": 0.0,
    }


def _mla_settings(mla: MlaShape) -> dict[str, object]:
    return {
        "q_lora_rank": mla.q_lora_rank,
        "kv_lora_rank": mla.kv_lora_rank,
        "qk_head_dim": mla.nope_channels,
        "qk_pos_emb_head_dim": mla.rope_channels,
        "v_head_dim": mla.value_channels,
        # angles come from rotary.py; Megatron scales its softmax by these
        "rope_type": "rope",
        "rotary_scaling_factor": mla.rope_factor,
        "mscale_all_dim": mla.mscale_all_dim,
    }


def _make_router_biases_parameters(model: PackedGpt) -> None:
    """Make the routers' biases, buffers in Megatron, parameters that are not trained: they are weights like others."""
    for module in model.modules():
        bias = getattr(module, "expert_bias", None)
        if bias is not None:
            del module.expert_bias
            module.expert_bias = torch.nn.Parameter(bias, requires_grad=False)
