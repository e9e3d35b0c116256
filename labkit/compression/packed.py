"""From a quantized weight to a layer that stores it packed."""

from torch import nn

from labkit.compression.gptq import GptqResult
from labkit.quant.affine import QuantizedTensor
from labkit.quant.linear import QuantLinear


def to_quant_linear(linear: nn.Linear, result: QuantizedTensor | GptqResult) -> QuantLinear:
    """The layer with its weight packed; `compress(..., to_module=to_quant_linear)`.

    Args:
        linear: the layer that is replaced; gives bias and dtype.
        result: what RTN or GPTQ made of its weight.

    Raises:
        ValueError: the codes are in another order than the weight's columns.
    """
    if isinstance(result, GptqResult):
        if result.order is not None:
            raise ValueError(
                "groups refitted in act_order are no neighbours in the weight and cannot be "
                "packed: use GptqConfig(static_groups=True) or act_order=False"
            )
        result = result.quantized
    return QuantLinear(result, linear.bias, linear.weight.dtype)
