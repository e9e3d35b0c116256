"""The same block in fewer passes over memory: what a frozen model's training step is slow at.

Each function here is one autograd node with its backward pass written out, in place of several
that PyTorch derives: less is saved, less is read and written. `fuse` puts them into a model. On a
CPU in bfloat16 a training step spends more time on these than a GPU would, since there the matrix
products are fast and everything else is not.
"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from labkit.model.layers import Attention, RMSNorm, SwiGLU


def fuse(model: nn.Module) -> nn.Module:
    """Let a model's norms, attention and SwiGLU use this module's functions, in place.

    Parameters, names and files stay; outputs change by rounding.

    Raises:
        ValueError: there is nothing to fuse in it: it is no MiniLLM.
    """
    found = 0
    for module in model.modules():
        match module:
            case RMSNorm():
                module.normalise = rms_norm  # type: ignore[method-assign]
            case Attention():
                module.attend = attend  # type: ignore[method-assign]
            case SwiGLU():
                module.gated = gated  # type: ignore[method-assign]
            case _:
                continue
        found += 1
    if not found:
        raise ValueError(f"a {type(model).__name__} has no layers of MiniLLM's to fuse")
    return model


def rms_norm(
    x: Float[Tensor, "*B D"], weight: Float[Tensor, " D"], eps: float
) -> Float[Tensor, "*B D"]:
    """As `layers.RMSNorm`; saves x and one number a row. Under autocast y has its dtype.

    With r = 1 / sqrt(mean(x^2) + eps), n = r x and g = dy weight: dx = r (g - n mean(g n)).
    """
    y: Tensor = _RMSNorm.apply(x, weight, eps)
    return y


class _RMSNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        r = torch.rsqrt(torch.linalg.vecdot(wide, wide)[..., None] / x.shape[-1] + eps)
        ctx.save_for_backward(x, weight, r)
        y = weight * (wide * r).to(x.dtype)
        kind = x.device.type
        return y.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight, r = ctx.saved_tensors
        n, g = x * r, (dy * weight).float()
        share = torch.linalg.vecdot(g, n)[..., None] / x.shape[-1]
        dx = torch.addcmul(g, n, share, value=-1).mul_(r).to(x.dtype)
        if not ctx.needs_input_grad[1]:
            return dx, None, None
        d_weight = (dy * n.to(dy.dtype)).flatten(0, -2).sum(0).to(weight.dtype)
        return dx, d_weight, None


def gated(gate: Float[Tensor, "*B F"], up: Float[Tensor, "*B F"]) -> Float[Tensor, "*B F"]:
    """silu(gate) * up; saves its two arguments, and not silu(gate)."""
    y: Tensor = _Gated.apply(gate, up)
    return y


class _Gated(Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        d_gate: Tensor = torch.ops.aten.silu_backward(dy * up, gate)
        return d_gate, functional.silu(gate).mul_(dy)


def attend(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B G S K"],
    v: Float[Tensor, "B G S K"],
    mask: Bool[Tensor, "#B 1 T S"] | None,
) -> Float[Tensor, "B H T K"]:
    """softmax(Q K^T / sqrt(K) + mask) V as batched products over groups of heads.

    Saves q, k, v and the outputs, never the (T, S) matrix: with P recomputed from the saved
    log-sums and D = rowsum(dy y), dS = P (dP - D). Paper: arXiv 2307.08691, section 2.3, with a
    single tile. The scores are rounded to q's dtype, as in transformers' eager attention.

    Args:
        q: queries.
        k: keys; H / G query heads share one.
        v: values.
        mask: True where a query may look; None: each token sees itself and all before it.
    """
    B, H, T, K = q.shape
    G, S = k.shape[1:3]
    if mask is None:
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    hidden = torch.zeros(mask.shape, dtype=q.dtype, device=q.device)
    hidden = hidden.masked_fill_(~mask, float("-inf")).view(-1, 1, T, S)  # (B or 1, 1, T, S)
    rows = (q.reshape(B * G, -1, K), k.reshape(B * G, S, K), v.reshape(B * G, S, K))
    y: Tensor = _Attention.apply(*rows, hidden, (B, H, T, S))
    return y.view(B, H, T, K)


class _Attention(Function):
    """All with the H / G heads of a group as rows of one product: (B G, H/G T, K)."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, hidden: Tensor, sizes: tuple[int, int, int, int]
    ) -> Tensor:
        scores = _scores(q, k, hidden, sizes)
        top = scores.amax(-1, keepdim=True)
        p = scores.sub_(top).exp_()
        total = p.sum(-1, keepdim=True)
        log_total = total.log() + top
        y = torch.bmm(p.div_(total).to(v.dtype), v)
        ctx.save_for_backward(q, k, v, hidden, y, log_total)
        ctx.sizes = sizes
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, hidden, y, log_total = ctx.saved_tensors
        p = _scores(q, k, hidden, ctx.sizes).sub_(log_total).exp_()
        dv = torch.bmm(p.to(v.dtype).transpose(1, 2), dy)
        d = (dy * y).sum(-1, keepdim=True, dtype=torch.float32)
        ds = torch.bmm(dy, v.transpose(1, 2)).float().sub_(d).mul_(p).to(q.dtype)
        scale = 1 / math.sqrt(q.shape[-1])
        dq, dk = torch.bmm(ds, k).mul_(scale), torch.bmm(ds.transpose(1, 2), q).mul_(scale)
        return dq, dk, dv, None, None


def _scores(q: Tensor, k: Tensor, hidden: Tensor, sizes: tuple[int, int, int, int]) -> Tensor:
    """Masked scores in float32, (B G, H/G T, S)."""
    B, H, T, S = sizes
    scores = torch.bmm(q, k.transpose(1, 2)).float().mul_(1 / math.sqrt(q.shape[-1]))
    scores.view(B, H, T, S).add_(hidden)
    return scores
