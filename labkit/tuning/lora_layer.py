"""LoRA's layer: a frozen linear layer plus a trainable product of two thin matrices."""

import math
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from labkit.tuning.targets import ALL_LINEAR, AnyLinear, PackedLinear


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
    """

    rank: int = 8
    alpha: float | int = 16.0
    dropout: float | int = 0.0
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    bias: str = "none"
    use_rslora: bool = False

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


class LoraLinear(nn.Module):
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

    def __init__(
        self,
        base: nn.Module,
        config: LoraConfig,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_rank(config.rank, base, "this layer")
        linear = cast(AnyLinear, base)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        device, base_dtype = _placement(linear)
        self.base_layer = base
        self.scaling = config.scaling
        self.enabled = True
        self.dropout = nn.Dropout(config.dropout) if config.dropout > 0 else None
        self._base_weight: list[nn.Parameter] = []  # in a list, so that it is not registered

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
        # `to` does nothing where the types agree; it lets float32 adapters sit on a bfloat16 base.
        hidden = functional.linear(x, self.lora_A.weight.to(x.dtype))  # (*B, T, I) -> (*B, T, R)
        rows = base.flatten(0, -2), hidden.flatten(0, -2)  # (*B, T, .) -> (N, .)
        out = torch.addmm(*rows, self.lora_B.weight.t().to(base.dtype), alpha=self.scaling)
        return out.view(base.shape)

    @property
    def merged(self) -> bool:
        """Whether the base's weight now holds the adapter."""
        return bool(self._base_weight)

    @torch.no_grad()
    def merged_weight(self) -> Float[Tensor, "O I"]:
        """W + scaling * B A, summed in at least float32 and rounded once to W's dtype."""
        base = self.base_layer
        weight = (
            base.weight if isinstance(base, nn.Linear) else cast(PackedLinear, base).dequantize()
        )
        wide = torch.promote_types(weight.dtype, torch.float32)
        delta = self.lora_B.weight.to(wide) @ self.lora_A.weight.to(wide)
        return weight.to(wide).add(delta, alpha=self.scaling).to(weight.dtype)

    def merge(self) -> None:
        """Put the adapter into the base's weight, W <- W + scaling * B A.

        The old weight is kept, which doubles this layer's memory until `unmerge`: subtracting the
        product again would not give the same bits. A weight tied to another module stays as it is
        there.

        Raises:
            ValueError: merged already, or the base is packed.
        """
        if self.merged:
            raise ValueError("this adapter is merged already; call unmerge first")
        base = self.base_layer
        if not (isinstance(base, nn.Linear) and base.weight.is_floating_point()):
            raise ValueError(
                f"a {type(base).__name__} cannot absorb an adapter without rounding it away; "
                "use merge_and_unload, which makes dense layers"
            )
        merged = nn.Parameter(self.merged_weight(), requires_grad=False)
        self._base_weight.append(cast(nn.Parameter, base.weight))
        base.weight = merged

    def unmerge(self) -> None:
        """Put back the very weight that `merge` kept: exact to the bit.

        Raises:
            ValueError: the adapter is not merged.
        """
        if not self.merged:
            raise ValueError("this adapter is not merged; call merge first")
        base = cast(nn.Linear, self.base_layer)
        kept = self._base_weight.pop()
        kept.data = kept.data.to(base.weight.device, base.weight.dtype)
        base.weight = kept


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


def _placement(base: AnyLinear) -> tuple[torch.device, torch.dtype]:
    if not isinstance(base, nn.Linear):
        return base.device, base.dtype
    weight = base.weight
    return weight.device, weight.dtype if weight.is_floating_point() else torch.float32


def _thin_linear(weight: Tensor) -> nn.Linear:
    O, I = weight.shape  # noqa: E741
    layer = nn.Linear(I, O, bias=False, device="meta")
    layer.weight = nn.Parameter(weight)
    return layer
