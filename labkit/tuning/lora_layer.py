"""LoRA's layer: a frozen linear layer plus a trainable product of two thin matrices."""

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from labkit.tuning.adapted import AdaptedLinear, wide
from labkit.tuning.targets import ALL_LINEAR, AnyLinear, placement


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """What to adapt and how strongly.

    Args:
        rank: R, the width of the bottleneck.
        alpha: numerator of the scaling.
        dropout: probability of dropping an input of the adapter's path, in [0, 1).
        target_modules: names of linear layers, each a whole path or its last parts; or one string:
            "all-linear" (every linear layer but the output head) or a regular expression that the
            whole path must match.
        bias: which biases train: "none", those of the adapted layers, or "all" of the model's.
        use_rslora: scale by alpha / sqrt(R) instead of alpha / R (arXiv 2312.03732).
        use_dora: train each row's length beside its direction; see `dora_layer`.
    """

    rank: int = 8
    alpha: float | int = 16.0
    dropout: float | int = 0.0
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    bias: str = "none"
    use_rslora: bool = False
    use_dora: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank={self.rank} must be at least 1; 4 to 64 is usual")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"alpha={self.alpha} must be a positive number; 2 * rank is usual")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must lie in [0, 1)")
        if self.bias not in ("none", "lora_only", "all"):
            raise ValueError(f"bias={self.bias!r} must be 'none', 'lora_only' or 'all'")
        if not self.target_modules:
            raise ValueError(f"target_modules is empty; name layers or give {ALL_LINEAR!r}")

    @property
    def scaling(self) -> float:
        """alpha / R, or alpha / sqrt(R) with rsLoRA."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)


class LoraLinear(AdaptedLinear):
    """y = base(x) + scaling * (x A^T) B^T, with A (R, I) random and B (O, R) zero at the start.

    Paper: arXiv 2106.09685v2, equation 3.

    The sum, the product with B and the scaling are one `addmm`; nothing is cast where dtypes agree,
    and there is no dropout module at p = 0. `lora_A`, `lora_B` and `base_layer` are named as in
    PEFT's files.

    Args:
        base: an `nn.Linear` or a packed linear; it is frozen by `apply`, not here.
        config: rank, scaling and dropout.
        generator: draws A on the CPU, so that every device gets the same numbers; without one a
            fresh generator with seed 0 is used, and torch's global generator is never touched.
        dtype: of A and B, by default the base's; float32 on a bfloat16 base keeps small updates.

    Raises:
        ValueError: the rank exceeds min(I, O), where the product is no longer of low rank.
    """

    method = "LoRA"

    def __init__(
        self,
        base: nn.Module,
        config: LoraConfig,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_rank(config.rank, base, "this layer")
        super().__init__(base)
        device, base_dtype = placement(base)
        self.scaling = config.scaling
        self.dropout = nn.Dropout(config.dropout) if config.dropout > 0 else None

        generator = torch.Generator().manual_seed(0) if generator is None else generator
        bound = 1 / math.sqrt(self.in_features)
        A = torch.empty(config.rank, self.in_features).uniform_(-bound, bound, generator=generator)
        B = torch.zeros(self.out_features, config.rank)
        self.lora_A = _thin_linear(A.to(device, dtype or base_dtype))
        self.lora_B = _thin_linear(B.to(device, dtype or base_dtype))

    def forward(self, x: Float[Tensor, "*B T I"]) -> Float[Tensor, "*B T O"]:
        base = self.base_layer(x)
        if self.merged or not self.enabled:
            return cast(Tensor, base)
        if self.dropout is not None:
            x = self.dropout(x)
        factors = self.lora_A.weight, self.lora_B.weight, self.scaling
        return cast(Tensor, _AddLowRank.apply(base, x, *factors))

    @torch.no_grad()
    def merged_weight(self) -> Float[Tensor, "O I"]:
        """W + scaling * B A, summed in at least float32 and rounded once to W's dtype."""
        weight = self.base_weight()
        return self.moved(weight.to(wide(weight))).to(weight.dtype)

    def moved(self, weight: Float[Tensor, "O I"]) -> Float[Tensor, "O I"]:
        """weight + scaling * B A, in its dtype."""
        delta = self.lora_B.weight.to(weight.dtype) @ self.lora_A.weight.to(weight.dtype)
        return weight.add(delta, alpha=self.scaling)


class _AddLowRank(Function):
    """base + scaling * (x A^T) B^T as one node, float32 factors on a bfloat16 base included.

    With h = x A^T and dh = scaling * dy B: dA = dh^T x, dB = scaling * dy^T h, dx = dh A.
    """

    @staticmethod
    def forward(ctx: Any, base: Tensor, x: Tensor, A: Tensor, B: Tensor, scaling: float) -> Tensor:
        dtype = base.dtype  # under autocast x may be float32, and the base's output is not
        rows, down, up = x.flatten(0, -2).to(dtype), A.to(dtype), B.to(dtype)
        h = rows @ down.t()  # (N, I) -> (N, R)
        ctx.save_for_backward(rows, h, down, up)
        ctx.scaling, ctx.shape, ctx.dtypes = scaling, x.shape, (x.dtype, A.dtype, B.dtype)
        return torch.addmm(base.flatten(0, -2), h, up.t(), alpha=scaling).view(base.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        rows, h, down, up = ctx.saved_tensors
        d_rows = dy.flatten(0, -2)
        dh = (d_rows @ up).mul_(ctx.scaling)
        dx = (dh @ down).view(ctx.shape) if ctx.needs_input_grad[1] else None
        found = (dx, dh.t() @ rows, (d_rows.t() @ h).mul_(ctx.scaling))
        cast_back = (g if g is None else g.to(t) for g, t in zip(found, ctx.dtypes, strict=True))
        return dy, *cast_back, None


def check_rank(rank: int, base: nn.Module, name: str) -> None:
    """Refuse a base that is no linear layer, or whose min(I, O) the rank exceeds.

    Raises:
        ValueError: with `name`, the sizes and the way out.
    """
    if not isinstance(base, AnyLinear):
        raise ValueError(f"LoRA adapts linear layers, and {name} is a {type(base).__name__}")
    I, O = base.in_features, base.out_features  # noqa: E741
    if rank > min(I, O):
        raise ValueError(
            f"rank={rank} exceeds min(in, out)={min(I, O)} of {name} ({I} -> {O}); "
            f"take a rank of at most {min(I, O)} or leave the layer out of target_modules"
        )


def _thin_linear(weight: Tensor) -> nn.Linear:
    O, I = weight.shape  # noqa: E741
    layer = nn.Linear(I, O, bias=False, device="meta")
    layer.weight = nn.Parameter(weight)
    return layer
