"""AdamW whose moments are kept in 8 bits: QLoRA's second saving.

It stands beside QLoRA and not among the training loops because it is a way to tune in less memory;
any loop that takes a `torch.optim.Optimizer` takes it.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

from labkit.quant.blockwise import (
    DYNAMIC_MAP,
    UNSIGNED_DYNAMIC_MAP,
    nearest_codes,
    scale_blocks,
)

BLOCK_SIZE = 256
_MOMENTS = {"exp_avg": DYNAMIC_MAP, "exp_avg_sq": UNSIGNED_DYNAMIC_MAP}


class Adam8bit(torch.optim.Optimizer):
    """AdamW; between steps both moments are one byte a weight and one float32 per 256.

    A step expands the moments of one parameter, updates it as AdamW does in float32, and packs them
    again: 2.03 bytes a weight instead of 8. Each block has its own scale, so that an outlier spoils
    255 neighbours and not the whole tensor. Small parameters, such as norms and biases, keep their
    moments in float32: there is little to save.

    Paper: arXiv 2110.02861, sections 2.1 and 2.2.
    Differs: a second moment above zero never rounds to zero but to the smallest code; at zero the
    next step would divide by eps alone, and gradients over four decades do that.

    Args:
        params: as for any optimizer.
        lr: step size.
        betas: smoothing of the gradient and of its square.
        eps: added to the root of the second moment.
        weight_decay: decoupled from the gradient.
        min_numel: parameters of fewer weights keep float32 moments.

    Raises:
        ValueError: an option is out of its range.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        min_numel: int = 4096,
    ) -> None:
        if lr < 0 or eps < 0 or weight_decay < 0:
            raise ValueError(
                f"lr={lr}, eps={eps}, weight_decay={weight_decay} must not be negative"
            )
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={betas} must lie in [0, 1)")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "min_numel": min_numel})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state, bit for bit; torch's own version would cast the codes to floats."""
        super().load_state_dict(state_dict)
        parameters = [p for group in self.param_groups for p in group["params"]]
        for index, state in state_dict["state"].items():
            parameter = parameters[index]
            self.state[parameter] = {
                key: value.to(parameter.device, copy=True) if isinstance(value, Tensor) else value
                for key, value in state.items()
            }

    @property
    def nbytes(self) -> int:
        """Bytes of all moments."""
        return sum(
            value.nbytes
            for state in self.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        )

    def _update(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        state["step"] = step = state.get("step", 0) + 1
        one, two = group["betas"]
        grad = parameter.grad.float()  # type: ignore[union-attr]
        mean = self._moment(parameter, "exp_avg").mul_(one).add_(grad, alpha=1 - one)
        square = self._moment(parameter, "exp_avg_sq").mul_(two).addcmul_(grad, grad, value=1 - two)
        scale = (square.sqrt() / math.sqrt(1 - two**step)).add_(group["eps"])
        weight = parameter.float().mul(1 - group["lr"] * group["weight_decay"])
        parameter.copy_(weight.addcdiv_(mean, scale, value=-group["lr"] / (1 - one**step)))
        for name, moment in (("exp_avg", mean), ("exp_avg_sq", square)):
            self._keep(parameter, name, moment, packed=parameter.numel() >= group["min_numel"])

    def _moment(self, parameter: nn.Parameter, name: str) -> Tensor:
        """A moment in float32; zeros before the first step."""
        state = self.state[parameter]
        if name not in state:
            return torch.zeros_like(parameter, dtype=torch.float32)
        held: Tensor = state[name]
        if held.dtype != torch.uint8:
            return held
        table = _MOMENTS[name].to(held.device)
        values = scale_blocks(table[held.int()], state[f"{name}_absmax"], BLOCK_SIZE)
        return values.view(parameter.shape)

    def _keep(self, parameter: nn.Parameter, name: str, moment: Tensor, *, packed: bool) -> None:
        state = self.state[parameter]
        if not packed:
            state[name] = moment
            return
        table = _MOMENTS[name].to(moment.device)
        codes, absmax = nearest_codes(moment.flatten(), table, BLOCK_SIZE)
        if name == "exp_avg_sq":
            codes.clamp_(min=1).mul_(moment.flatten() > 0)
        state[name], state[f"{name}_absmax"] = codes, absmax
