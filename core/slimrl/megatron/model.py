"""The policy as a Megatron GPT model over packed tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.transformer_config import MLATransformerConfig, TransformerConfig
from torch import Tensor

from slimrl.megatron.attention import PackedSegments
from slimrl.megatron.compat import mark_parameters, tensors_stay_on, without_megatron_warnings
from slimrl.megatron.convert.place import Place, padded_vocabulary
from slimrl.megatron.embedding import embed
from slimrl.megatron.layers import block_spec
from slimrl.megatron.mla_shape import MlaShape
from slimrl.megatron.moe_shape import MoeShape
from slimrl.megatron.rotary import inverse_frequencies, rotary_angles
from slimrl.megatron.shape import ModelShape


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

    def forward(self, packed: PackedTokens) -> Tensor:
        """Final, normalised hidden states of `packed.predictors`: [rows, hidden]."""
        embedded = None
        if self.pre_process:
            embedded = embed(packed.tokens, self.embedding.word_embeddings.weight)[:, None]
        hidden: Tensor = self.decoder(
            hidden_states=embedded,
            attention_mask=None,
            rotary_pos_emb=rotary_angles(
                packed.positions, self.frequencies, interleaved=self.config.rotary_interleaved
            ),
            packed_seq_params=packed.segments,
        )
        return hidden.squeeze(1).index_select(0, packed.predictors) if self.post_process else hidden

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
    with without_megatron_warnings(), tensors_stay_on(device):
        model = _build(shape, device, dtype)
    model.to(device)
    model.frequencies = inverse_frequencies(shape).to(device)
    _make_router_biases_parameters(model)
    mark_parameters(model)
    model.train()
    return model


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


def _build(shape: ModelShape, device: torch.device, dtype: torch.dtype) -> PackedGpt:
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
        pipeline_model_parallel_size=parallel_state.get_pipeline_model_parallel_world_size(),
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
        **({} if shape.moe is None else _moe_settings(shape.moe, device)),
        **({} if shape.mla is None else _mla_settings(shape.mla)),
    )
    return PackedGpt(
        config=config,
        transformer_layer_spec=block_spec(config, has_post_norms=shape.has_post_norms),
        vocab_size=padded_vocabulary(shape.vocab_size, tensor_size),
        max_sequence_length=shape.max_positions,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        share_embeddings_and_output_weights=shape.has_tied_embeddings,
        position_embedding_type="none",
    )


def _moe_settings(moe: MoeShape, device: torch.device) -> dict[str, object]:
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
        # all-to-all needs CUDA streams
        "moe_token_dispatcher_type": "alltoall" if device.type == "cuda" else "allgather",
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
