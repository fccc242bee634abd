"""The policy as a Megatron GPT model over packed tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from slimrl.megatron.attention import PackedSegments
from slimrl.megatron.compat import mark_parameters, without_megatron_warnings
from slimrl.megatron.embedding import embed
from slimrl.megatron.layers import RmsNorm, layer_spec
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
            rotary_pos_emb=rotary_angles(packed.positions, self.frequencies),
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
    with without_megatron_warnings():
        model = _build(shape, dtype)
    model.to(device)
    model.frequencies = inverse_frequencies(shape).to(device)
    mark_parameters(model)
    model.train()
    return model


def _build(shape: ModelShape, dtype: torch.dtype) -> PackedGpt:
    config = TransformerConfig(
        num_layers=shape.num_layers,
        hidden_size=shape.hidden_size,
        ffn_hidden_size=shape.ffn_hidden_size,
        num_attention_heads=shape.num_attention_heads,
        num_query_groups=shape.num_query_groups,
        kv_channels=shape.kv_channels,
        layernorm_epsilon=shape.norm_epsilon,
        normalization="RMSNorm",
        qk_layernorm=shape.has_qk_norm,
        gated_linear_unit=True,
        activation_func=F.silu,
        # the activation of layers.py stands where Transformer Engine's would
        use_te_activation_func=True,
        add_bias_linear=False,
        add_qkv_bias=shape.has_qkv_bias,
        hidden_dropout=0.0,
        attention_dropout=0.0,
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
    )
    spec = layer_spec(shape.has_qk_norm)
    model = PackedGpt(
        config=config,
        transformer_layer_spec=spec,
        vocab_size=shape.vocab_size,
        max_sequence_length=shape.max_positions,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(),
        share_embeddings_and_output_weights=shape.has_tied_embeddings,
        position_embedding_type="none",
    )
    if model.post_process:
        # Megatron has no place for it in a layer's spec
        model.decoder.final_layernorm = RmsNorm(config, shape.hidden_size, eps=shape.norm_epsilon)
    return model
