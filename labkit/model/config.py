"""The numbers that define a Llama-family decoder, and the sizes that follow from them."""

from dataclasses import dataclass

import torch

NORMS = ("rms", "layer")
NORM_POSITIONS = ("pre", "post")


@dataclass(frozen=True, kw_only=True, slots=True)
class MoeConfig:
    """How tokens are spread over experts.

    Attributes:
        num_experts: E, SwiGLU networks in each block.
        top_k: experts that a token goes to.
        capacity_factor: in training an expert takes at most capacity_factor * N * top_k / E of a
            batch's N * top_k assignments, rounded up, and drops the rest; None drops nothing.
            Outside of training nothing is dropped: a token's output must not depend on its batch.
    """

    num_experts: int
    top_k: int = 2
    capacity_factor: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.num_experts:
            raise ValueError(
                f"top_k={self.top_k} must lie between 1 and num_experts={self.num_experts}"
            )
        if self.capacity_factor is not None and not self.capacity_factor > 0:
            raise ValueError(
                f"capacity_factor={self.capacity_factor} must be positive, or None to drop nothing"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Shape and constants of a MiniLLM.

    Attributes:
        vocab_size: V, rows of the token embedding.
        width: D, of the residual stream.
        num_layers: L, decoder blocks.
        num_heads: H, query heads.
        num_kv_heads: G, key/value heads; each serves H / G query heads. G = H is multi-head
            attention, G = 1 multi-query, anything between grouped-query.
        head_width: K, of one head; even, since RoPE rotates pairs.
        ffn_width: F, of the SwiGLU hidden layer.
        rope_theta: base of RoPE's geometric series of wavelengths.
        norm_eps: added to the mean square inside RMSNorm, to the variance inside LayerNorm.
        max_length: longest sequence the model was trained for, in tokens.
        tie_embeddings: whether the output matrix is the token embedding.
        sliding_window: W, the latest tokens a query sees, itself included; None: all before it.
        norm: "rms", or "layer" for LayerNorm with a bias.
        norm_position: "pre", before each sublayer and at the end; or "post", after each residual
            sum, as in the first transformer.
        moe: experts in place of the one SwiGLU; None for a dense model.
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
    sliding_window: int | None = None
    norm: str = "rms"
    norm_position: str = "pre"
    moe: MoeConfig | None = None

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
        if self.sliding_window is not None:
            _require_positive("sliding_window", self.sliding_window)
        _require_one_of("norm", self.norm, NORMS)
        _require_one_of("norm_position", self.norm_position, NORM_POSITIONS)

    @property
    def num_parameters(self) -> int:
        """L (2 D H K + 2 D G K + 3 D F + 2 D) + D + V D, and V D more for an untied head.

        With E experts a block has 3 D F E + E D in place of 3 D F, the router included. LayerNorm
        doubles every D that stands for a norm; post-norm has none at the end.
        """
        D, H, G, K = self.width, self.num_heads, self.num_kv_heads, self.head_width
        norm = D if self.norm == "rms" else 2 * D
        ffn = 3 * D * self.ffn_width
        if self.moe is not None:
            ffn = self.moe.num_experts * (ffn + D)
        block = 2 * D * H * K + 2 * D * G * K + ffn + 2 * norm
        final = norm if self.norm_position == "pre" else 0
        matrices = 1 if self.tie_embeddings else 2
        return self.num_layers * block + final + matrices * self.vocab_size * D

    @property
    def num_active_parameters(self) -> int:
        """Those that one token meets: all of a dense model, k of each block's E experts."""
        if self.moe is None:
            return self.num_parameters
        unused = self.moe.num_experts - self.moe.top_k
        return self.num_parameters - self.num_layers * unused * 3 * self.width * self.ffn_width

    def kv_bytes_per_token(self, dtype: torch.dtype) -> int:
        """Bytes the cache holds for one token of one sequence: 2 L G K times the item size."""
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
    def minillm_2m(cls) -> "ModelConfig":
        """1.97 M parameters; with the next two, one vocabulary, so that their losses compare."""
        return cls(
            vocab_size=2048,
            width=192,
            num_layers=4,
            num_heads=6,
            num_kv_heads=2,
            head_width=32,
            ffn_width=512,
            max_length=512,
        )

    @classmethod
    def minillm_10m(cls) -> "ModelConfig":
        """10.2 M parameters."""
        return cls(
            vocab_size=2048,
            width=384,
            num_layers=6,
            num_heads=6,
            num_kv_heads=2,
            head_width=64,
            ffn_width=1024,
            max_length=512,
        )

    @classmethod
    def minillm_70m(cls) -> "ModelConfig":
        """70.0 M parameters: for a GPU."""
        return cls(
            vocab_size=2048,
            width=768,
            num_layers=12,
            num_heads=12,
            num_kv_heads=4,
            head_width=64,
            ffn_width=1792,
            max_length=1024,
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


def _require_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}={value!r} must be {' or '.join(map(repr, known))}")
