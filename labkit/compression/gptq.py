"""GPTQ: quantize column by column, each time repairing the error with the columns still free."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from labkit.quant.affine import AffineConfig, QuantizedTensor, fit_grid, round_to_grid


@dataclass(frozen=True, kw_only=True, slots=True)
class GptqConfig:
    """How GPTQ walks a weight.

    Args:
        affine: the integer format.
        act_order: quantize columns of large inputs first (by the Hessian's diagonal), while most
            others can still repair their error.
        static_groups: fit every group's grid on the original weights; otherwise it is fitted on the
            updated weights, when the group's turn comes. With `act_order`, static groups are
            neighbours in the weight; others are neighbours in the walk and need `order` to read.
        damping: share of the Hessian's mean diagonal that is added to its diagonal.
        block_size: columns after which updates of the rest are applied at once; only speed.

    Raises:
        ValueError: a value is out of range, or neither of group and block divides the other.
    """

    affine: AffineConfig
    act_order: bool = True
    static_groups: bool = False
    damping: float = 0.01
    block_size: int = 128

    def __post_init__(self) -> None:
        if self.damping < 0:
            raise ValueError(f"damping={self.damping} must not be negative")
        if self.block_size < 1:
            raise ValueError(f"block_size={self.block_size} must be at least 1")
        group = self.affine.group_size
        if self.refits and group and self.block_size % group and group % self.block_size:
            raise ValueError(
                f"block_size={self.block_size} and group_size={group}: one must divide the other, "
                f"or a group's scale would miss pending updates; try block_size={group}"
            )

    @property
    def refits(self) -> bool:
        """Whether each group's grid is fitted on updated weights."""
        return self.affine.granularity == "group" and not self.static_groups


@dataclass(frozen=True, slots=True, eq=False)
class GptqResult:
    """Codes, and the order of their columns where it is not the weight's own.

    `order[i]` is the column of the weight that column i of `quantized` stands for; None: column i.
    """

    quantized: QuantizedTensor
    order: Int[Tensor, "I"] | None

    def dequantize(self) -> Float[Tensor, "O I"]:
        """The weight these codes stand for, its columns in their own order."""
        weight = self.quantized.dequantize()
        return weight if self.order is None else weight[:, self.order.argsort()]


@torch.no_grad()
def gptq(
    weight: Float[Tensor, "O I"], hessian: Float[Tensor, "J J"], config: GptqConfig
) -> GptqResult:
    """Minimises tr(dW H dW^T) greedily: quantize column i, then for all later columns j

        W_j <- W_j - (W_i - Q_i) / U_ii * U_ij,    H^-1 = U^T U, U upper triangular.

    Paper: 2210.17323v2, equations 2-3 and algorithm 1.
    Differs: columns whose input was never seen (a zero diagonal) are rounded to nearest, where the
    authors' code sets them to zero; results do not depend on the Hessian's scale.

    Args:
        weight: weight of a linear layer, one row per output.
        hessian: second moment of its inputs (`HessianStats.hessian`).
        config: format and walk.

    Returns:
        Codes and grids. O(I^3 + O I^2) time, O(I^2 + O I) memory.

    Raises:
        ValueError: the shapes or the groups do not fit, or the Hessian is not positive definite.
    """
    if hessian.shape[0] != weight.shape[1]:
        raise ValueError(f"a {tuple(hessian.shape)} Hessian for {weight.shape[1]} input features")
    diagonal = hessian.diagonal()
    order = torch.arange(len(diagonal), device=weight.device)
    if config.act_order:
        order = diagonal.argsort(descending=True, stable=True).to(weight.device)
    work = weight.to(torch.promote_types(weight.dtype, torch.float32))
    grid = _Grid(work, config, order)
    factor = inverse_factor(hessian[order][:, order], config.damping).to(work)
    codes = _walk_columns(work[:, order], factor, grid, config.block_size)
    if config.act_order and config.refits:
        return GptqResult(grid.tensor(codes), order)
    return GptqResult(grid.tensor(codes[:, order.argsort()]), None)


def inverse_factor(hessian: Float[Tensor, "I I"], damping: float) -> Float[Tensor, "I I"]:
    """Upper triangular U with U^T U = (H + damping * mean(diag H) * 1)^-1, in float64.

    A zero on the diagonal (an input never seen) is first replaced by the mean of the others.

    Raises:
        ValueError: the damped Hessian is not positive definite.
    """
    damped = hessian.double().clone()
    diagonal = damped.diagonal()
    dead = diagonal == 0
    mean = diagonal[~dead].mean() if not dead.all() else diagonal.new_ones(())
    diagonal[dead] = mean
    diagonal += damping * mean
    lower, failed = torch.linalg.cholesky_ex(damped)
    if failed:
        raise ValueError(
            f"the Hessian is not positive definite with damping={damping}: "
            "raise the damping or calibrate on more tokens"
        )
    upper: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
    return upper


class _Grid:
    """Scale and zero point of every column of the walk, fitted at once or group by group."""

    def __init__(self, weight: Tensor, config: GptqConfig, order: Tensor) -> None:
        self.config = config.affine
        self.refits = config.refits
        self.scale, self.zero_point = fit_grid(weight, config.affine)
        self.group_size = config.affine.group_size or weight.shape[1]
        position = torch.arange(len(order)) if self.refits else order
        self.group_of = (position // self.group_size).tolist()
        self.column_config = AffineConfig(bits=self.config.bits, symmetric=self.config.symmetric)

    def enter(self, index: int, work: Tensor) -> None:
        """Fits a group on its weights as they are when the walk reaches its first column."""
        if self.refits and index % self.group_size == 0:
            group = slice(self.group_of[index], self.group_of[index] + 1)
            weights = work[:, index : index + self.group_size]
            self.scale[:, group], zero_point = fit_grid(weights, self.column_config)
            if self.zero_point is not None and zero_point is not None:
                self.zero_point[:, group] = zero_point

    def round(self, index: int, column: Tensor) -> tuple[Tensor, Tensor]:
        """Codes of column `index` of the walk, and the weights they stand for."""
        group = slice(self.group_of[index], self.group_of[index] + 1)
        scale = self.scale[:, group]
        zero_point = None if self.zero_point is None else self.zero_point[:, group]
        codes = round_to_grid(column, scale, zero_point, self.column_config)
        steps = codes.to(scale.dtype)
        return codes, (steps if zero_point is None else steps - zero_point.to(scale)) * scale

    def tensor(self, codes: Tensor) -> QuantizedTensor:
        rows, columns = codes.shape
        return QuantizedTensor(codes, self.scale, self.zero_point, self.config, (rows, columns))


def _walk_columns(work: Tensor, factor: Tensor, grid: _Grid, block_size: int) -> Tensor:
    """Codes of all columns, in the order of the walk; `work` is used up."""
    columns = work.shape[1]
    codes = []
    for start in range(0, columns, block_size):
        stop = min(start + block_size, columns)
        errors = torch.empty_like(work[:, start:stop])
        for i in range(start, stop):
            grid.enter(i, work)
            column = work[:, i : i + 1]
            code, rounded = grid.round(i, column)
            codes.append(code)
            error = (column - rounded) / factor[i, i]
            work[:, i:stop] -= error * factor[i, i:stop]
            errors[:, i - start : i - start + 1] = error
        work[:, stop:] -= errors @ factor[start:stop, stop:]
    return torch.cat(codes, dim=1)
