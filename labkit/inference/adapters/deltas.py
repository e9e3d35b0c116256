"""From a bank's stacks to a projection's output: which columns of y get which adapters' share."""

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.inference.adapters.grouped import Grouping, add_part
from labkit.inference.adapters.places import Place, Shape, shapes
from labkit.inference.adapters.stacks import Stacks
from labkit.model.config import ModelConfig


class Deltas:
    """Adds what the adapters in `stacks` make of x to outputs of the model's projections."""

    def __init__(self, config: ModelConfig, stacks: Stacks, dtype: torch.dtype) -> None:
        self._stacks, self._dtype = stacks, dtype
        self._shapes = shapes(config)

    def add(
        self,
        y: Float[Tensor, "N O"],
        x: Float[Tensor, "N I"],
        layer: int,
        targets: tuple[str, ...],
        grouping: Grouping,
    ) -> None:
        """y_i += scaling * (x_i A^T) B^T, in place, for targets of one input side by side in y.

        Raises:
            ValueError: shapes or dtypes do not fit.
        """
        if not grouping.parts:
            return
        self._check(y, x, [self._shapes[target] for target in targets], grouping)
        group = self._stacks.group_of(targets[0])
        with torch.no_grad():
            for part in grouping.parts:
                used = {t for t in targets if Place(layer, t) in part.places}
                if not used:
                    continue
                A, Bs = self._stacks.find(layer, group)
                first = group.index(targets[0])
                own, chosen, begin = A[:, first : first + len(targets)], [], 0
                for n, target in enumerate(targets):
                    end = begin + self._shapes[target].outputs
                    if target in used:
                        chosen.append((n, slice(begin, end), Bs[first + n]))
                    begin = end
                add_part(y, x, own, chosen, part)

    def _check(self, y: Tensor, x: Tensor, widths: list[Shape], grouping: Grouping) -> None:
        N, O = grouping.num_rows, sum(width.outputs for width in widths)  # noqa: E741
        if y.shape != (N, O) or x.shape != (N, widths[0].inputs):
            raise ValueError(
                f"y {tuple(y.shape)} and x {tuple(x.shape)} should be {(N, O)} and "
                f"{(N, widths[0].inputs)} for a grouping of {N} rows"
            )
        if {x.dtype, y.dtype} != {self._dtype}:
            raise ValueError(
                f"x is {x.dtype} and y is {y.dtype}, but the bank was built for {self._dtype}"
            )
