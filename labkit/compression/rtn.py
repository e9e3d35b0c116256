"""Round to nearest: every weight to the closest grid point, whatever the inputs are."""

from jaxtyping import Float
from torch import Tensor

from labkit.quant.affine import AffineConfig, QuantizedTensor, quantize


def rtn(weight: Float[Tensor, "O I"], config: AffineConfig) -> QuantizedTensor:
    """The baseline every calibrated method must beat: `labkit.quant.affine.quantize`.

    It needs no statistics. Inside the calibration driver it ignores them, and they serve its error:
    `compress(model, batches, HessianStats, lambda weight, stats: rtn(weight, config))`.

    Args:
        weight: weight of a linear layer, one row per output.
        config: the integer format.

    Raises:
        ValueError: the format does not fit the weight.
    """
    return quantize(weight, config)
