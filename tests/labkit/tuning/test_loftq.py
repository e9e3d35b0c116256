"""LoftQ against its definition over bitsandbytes' NF4 and PEFT's decomposition."""

import pytest
import torch
from bitsandbytes import functional as bnb
from peft.utils.loftq_utils import _low_rank_decomposition
from torch import nn

from labkit.tuning import loftq, lora, qlora

from .llama import tiny_llama

RANK = 5


def config(iterations: int = 1, alpha: float = RANK, **options: object) -> loftq.LoftqConfig:
    adapters = lora.LoraConfig(rank=RANK, alpha=alpha, target_modules="all-linear")
    return loftq.LoftqConfig(
        qlora=qlora.QloraConfig(lora=adapters, **options), iterations=iterations
    )


def weight(gen: torch.Generator) -> torch.Tensor:
    return torch.randn(24, 40, generator=gen) * 0.05


def error(W: torch.Tensor, settings: loftq.LoftqConfig) -> float:
    quantized, A, B = loftq.decompose(W, settings)
    return float((W - quantized.dequantize() - settings.qlora.lora.scaling * (B @ A)).norm())


@pytest.mark.parametrize("iterations", [1, 4])
def test_equals_the_alternation_of_pefts_parts(iterations: int, gen: torch.Generator) -> None:
    """PEFT's own `loftq_init` wants a GPU; these are the two steps it alternates."""
    W = weight(gen)
    residual = W
    for _ in range(iterations):
        packed, state = bnb.quantize_4bit(residual, blocksize=64, quant_type="nf4")
        Q = bnb.dequantize_4bit(packed, state)
        parts = _low_rank_decomposition(W - Q, RANK)
        residual = W - parts["L"] @ parts["R"]
    quantized, A, B = loftq.decompose(W, config(iterations, double_quant=False))
    torch.testing.assert_close(quantized.dequantize(), Q, rtol=0, atol=0)
    torch.testing.assert_close(B @ A, parts["L"] @ parts["R"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(A.norm(dim=1), B.norm(dim=0), rtol=1e-4, atol=1e-6)


def test_error_falls_with_iterations_and_stays_below_plain_quantization(gen) -> None:
    W = weight(gen)
    plain = float((W - qlora.quantized(W, config().qlora).dequantize()).norm())
    errors = [error(W, config(n)) for n in (1, 2, 5)]
    assert plain > 1.03 * errors[0]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0]


def test_start_does_not_depend_on_the_scaling(gen: torch.Generator) -> None:
    W = weight(gen)
    products = []
    for alpha in (float(RANK), 16.0, 0.5):
        settings = config(3, alpha=alpha)
        _, A, B = loftq.decompose(W, settings)
        products.append(settings.qlora.lora.scaling * (B @ A))
    for product in products[1:]:
        torch.testing.assert_close(product, products[0], rtol=1e-4, atol=1e-6)


def test_applied_model_is_nearer_to_the_float_one_than_qlora(gen: torch.Generator) -> None:
    x = torch.randint(97, (4, 11), generator=gen)
    with torch.no_grad():
        float_logits = tiny_llama(bias=True)(x).logits
        settings = config(3, alpha=7.0)
        plain = qlora.apply(tiny_llama(bias=True), settings.qlora)(x).logits
        model = loftq.apply(tiny_llama(bias=True), settings)
        ours = model(x).logits
    assert (ours - float_logits).norm() * 1.03 < (plain - float_logits).norm()
    trains = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trains == {name for name, _ in model.named_parameters() if "lora_" in name}
    changed = ours
    lora.merge_and_unload(model)
    torch.testing.assert_close(model(x).logits, changed, rtol=1e-5, atol=1e-5)


def test_refusals_leave_the_model_as_it_was() -> None:
    model = tiny_llama()
    nn.init.constant_(model.model.layers[1].mlp.down_proj.weight, float("nan"))
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.down_proj: .* not finite"):
        loftq.apply(model, config())
    assert all(isinstance(m, nn.Linear) for m in model.modules() if hasattr(m, "in_features"))
    packed = qlora.pack(tiny_llama(), config().qlora)
    with pytest.raises(ValueError, match="is a CodebookLinear: its float weight is gone"):
        loftq.apply(packed, config())
    with pytest.raises(ValueError, match="iterations=0 must be at least 1"):
        config(0)
    with pytest.raises(ValueError, match="use_dora=True"):
        loftq.LoftqConfig(qlora=qlora.QloraConfig(lora=lora.LoraConfig(use_dora=True)))
