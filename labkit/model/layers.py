"""The parts of a block: RMSNorm, LayerNorm, rotary positions, grouped-query attention, SwiGLU."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from labkit.model.cache import AttentionCache
from labkit.model.config import ModelConfig

Rope = tuple[Tensor, Tensor]


class RMSNorm(nn.Module):
    """y = weight * x / sqrt(mean(x^2) + eps), the mean taken over the width in float32.

    Paper: arXiv 1910.07467, equation 4.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return self.normalise(x, self.weight, self.eps)

    @staticmethod
    def normalise(
        x: Float[Tensor, "*B D"], weight: Float[Tensor, " D"], eps: float
    ) -> Float[Tensor, "*B D"]:
        """The formula; `fused.fuse` puts another in its place."""
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + eps)
        return weight * y.to(x.dtype)


class LayerNorm(nn.Module):
    """y = weight * (x - mean(x)) / sqrt(var(x) + eps) + bias, over the width, in float32.

    Paper: arXiv 1607.06450, section 3.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        y = x.float()
        y = y - y.mean(-1, keepdim=True)
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * y.to(x.dtype) + self.bias


def build_norm(config: ModelConfig) -> RMSNorm | LayerNorm:
    """The norm that the configuration names."""
    kind = RMSNorm if config.norm == "rms" else LayerNorm
    return kind(config.width, config.norm_eps)


def rope_table(
    positions: Int[Tensor, "B T"], head_width: int, theta: float
) -> tuple[Float[Tensor, "B T half"], Float[Tensor, "B T half"]]:
    """cos and sin of position * theta^(-2i/K) for i = 0 .. K/2 - 1, in float32.

    Paper: arXiv 2104.09864, equation 15.
    """
    exponents = torch.arange(0, head_width, 2, device=positions.device).float() / head_width
    angles = positions[..., None].float() * (1.0 / theta**exponents)
    return angles.cos(), angles.sin()


def apply_rope(
    x: Float[Tensor, "B T H K"], cos: Float[Tensor, "B T half"], sin: Float[Tensor, "B T half"]
) -> Float[Tensor, "B T H K"]:
    """Rotates the pairs (x_i, x_{i + K/2}) of each head by their position's angle.

    Differs: the paper pairs neighbours (x_2i, x_2i+1); Llama checkpoints in the Hugging Face layout
    pair the two halves. The two are the same up to a fixed permutation of the rows of Q and K.
    """
    cos, sin = cos[:, :, None].to(x.dtype), sin[:, :, None].to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(K) + mask) V with H query heads over G shared key/value heads.

    Paper: grouped queries arXiv 2305.13245, section 2.2; attention arXiv 1706.03762, equation 1.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        D, H, G, K = config.width, config.num_heads, config.num_kv_heads, config.head_width
        self.layer = layer
        self.head_width = K
        self.q_proj = nn.Linear(D, H * K, bias=False)
        self.k_proj = nn.Linear(D, G * K, bias=False)
        self.v_proj = nn.Linear(D, G * K, bias=False)
        self.o_proj = nn.Linear(H * K, D, bias=False)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rope: Rope,
        mask: Bool[Tensor, "B 1 T S"] | None = None,
        cache: AttentionCache | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Attends over the tokens of `x` and those in `cache`.

        Args:
            x: normalised residual stream.
            rope: cos and sin of the tokens' positions, from `rope_table`.
            mask: True where a query may look; None: each token sees itself and all before it.
            cache: keys and values of earlier tokens; it takes the new ones in and attends.
        """
        B, T, _ = x.shape
        heads = (B, T, -1, self.head_width)
        q = apply_rope(self.q_proj(x).view(heads), *rope).transpose(1, 2)  # (B, H, T, K)
        k = apply_rope(self.k_proj(x).view(heads), *rope).transpose(1, 2)  # (B, G, T, K)
        v = self.v_proj(x).view(heads).transpose(1, 2)
        if cache is None:
            y = self.attend(q, k, v, mask)
        else:
            y = cache.attend(self.layer, q, k, v, mask, self.attend)
        out: Tensor = self.o_proj(y.transpose(1, 2).reshape(B, T, -1))  # (B, H, T, K) -> (B, T, HK)
        return out

    @staticmethod
    def attend(
        q: Float[Tensor, "B H T K"],
        k: Float[Tensor, "B G S K"],
        v: Float[Tensor, "B G S K"],
        mask: Bool[Tensor, "#B 1 T S"] | None,
    ) -> Float[Tensor, "B H T K"]:
        """PyTorch's attention; `fused.fuse` puts another in its place."""
        causal = mask is None and q.shape[2] > 1
        return functional.scaled_dot_product_attention(
            q, k, v, mask, is_causal=causal, enable_gqa=True
        )


class SwiGLU(nn.Module):
    """y = W_down (silu(W_gate x) * W_up x).

    Paper: arXiv 2002.05202, equation 6.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.ffn_width, bias=False)
        self.up_proj = nn.Linear(config.width, config.ffn_width, bias=False)
        self.down_proj = nn.Linear(config.ffn_width, config.width, bias=False)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        y: Tensor = self.down_proj(self.gated(self.gate_proj(x), self.up_proj(x)))
        return y

    @staticmethod
    def gated(gate: Float[Tensor, "*B F"], up: Float[Tensor, "*B F"]) -> Float[Tensor, "*B F"]:
        """silu(gate) * up; `fused.fuse` puts another in its place."""
        return functional.silu(gate) * up
