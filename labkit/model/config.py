"""The numbers that define a Llama-family decoder, and the sizes that follow from them."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Shape and constants of a MiniLLM.

    Attributes:
        vocab_size: V, rows of the token embedding.
        width: D, of the residual stream.
        num_layers: L, decoder blocks.
        num_heads: H, query heads.
        num_kv_heads: G, key/value heads; each serves H / G query heads.
        head_width: K, of one head; even, since RoPE rotates pairs.
        ffn_width: F, of the SwiGLU hidden layer.
        rope_theta: base of RoPE's geometric series of wavelengths.
        norm_eps: added to the mean square inside RMSNorm.
        max_length: longest sequence the model was trained for, in tokens.
        tie_embeddings: whether the output matrix is the token embedding.
    """

    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    ffn_width: int
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    max_length: int = 2048
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "num_layers", "num_heads", "num_kv_heads"):
            _require_positive(name, getattr(self, name))
        for name in ("head_width", "ffn_width", "max_length", "rope_theta", "norm_eps"):
            _require_positive(name, getattr(self, name))
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads={self.num_kv_heads} must divide num_heads={self.num_heads}: "
                "each key/value head serves the same number of query heads"
            )
        if self.head_width % 2:
            raise ValueError(f"head_width={self.head_width} must be even: RoPE rotates pairs")

    @property
    def num_parameters(self) -> int:
        """L (2 D H K + 2 D G K + 3 D F + 2 D) + D + V D, and V D more for an untied head."""
        D, H, G, K = self.width, self.num_heads, self.num_kv_heads, self.head_width
        block = 2 * D * H * K + 2 * D * G * K + 3 * D * self.ffn_width + 2 * D
        matrices = 1 if self.tie_embeddings else 2
        return self.num_layers * block + D + matrices * self.vocab_size * D

    def kv_bytes_per_token(self, dtype: torch.dtype) -> int:
        """Bytes the cache grows by for one token of one sequence: 2 L G K times the item size."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_width * dtype.itemsize

    @classmethod
    def mini(cls) -> "ModelConfig":
        """The course's own model: small enough to train in minutes and to lie in the repository."""
        return cls(
            vocab_size=2048,
            width=256,
            num_layers=5,
            num_heads=8,
            num_kv_heads=2,
            head_width=32,
            ffn_width=640,
            max_length=512,
        )

    @classmethod
    def smollm2_135m(cls) -> "ModelConfig":
        """SmolLM2-135M and its Instruct version."""
        return cls(
            vocab_size=49_152,
            width=576,
            num_layers=30,
            num_heads=9,
            num_kv_heads=3,
            head_width=64,
            ffn_width=1536,
            rope_theta=100_000.0,
            max_length=8192,
        )


def _require_positive(name: str, value: int | float) -> None:
    if value <= 0:
        raise ValueError(f"{name}={value} must be positive")
