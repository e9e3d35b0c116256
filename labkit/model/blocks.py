"""The decoder's layer: attention and a feed-forward network, each with its residual and norm."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from labkit.model.cache import AttentionCache
from labkit.model.config import ModelConfig
from labkit.model.layers import Attention, Rope, SwiGLU, build_norm
from labkit.model.moe import MixtureOfExperts


class Block(nn.Module):
    """x + Attention(norm(x)), then x + FFN(norm(x)): the pre-norm layer."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = build_norm(config)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = build_norm(config)
        self.mlp = build_ffn(config)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rope: Rope,
        mask: Bool[Tensor, "B 1 T S"] | None = None,
        cache: AttentionCache | None = None,
    ) -> Float[Tensor, "B T D"]:
        x = x + self.self_attn(self.input_layernorm(x), rope, mask, cache)
        y: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return y


class PostNormBlock(nn.Module):
    """norm(x + Attention(x)), then norm(x + FFN(x)): the layer of the first transformer.

    Paper: arXiv 1706.03762, section 3.1. The stream is normalised as it leaves, so that no norm
    is due before the head; its gradients need a warm-up (arXiv 2002.04745).
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = build_norm(config)
        self.mlp = build_ffn(config)
        self.post_feedforward_layernorm = build_norm(config)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rope: Rope,
        mask: Bool[Tensor, "B 1 T S"] | None = None,
        cache: AttentionCache | None = None,
    ) -> Float[Tensor, "B T D"]:
        x = self.post_attention_layernorm(x + self.self_attn(x, rope, mask, cache))
        y: Tensor = self.post_feedforward_layernorm(x + self.mlp(x))
        return y


def build_block(config: ModelConfig, layer: int) -> Block | PostNormBlock:
    """The layer that the configuration names."""
    kind = Block if config.norm_position == "pre" else PostNormBlock
    return kind(config, layer)


def build_ffn(config: ModelConfig) -> SwiGLU | MixtureOfExperts:
    """One network for all tokens, or experts."""
    return SwiGLU(config) if config.moe is None else MixtureOfExperts(config)
