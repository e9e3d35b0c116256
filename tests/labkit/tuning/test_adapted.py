"""What must hold for every method that wraps linear layers, each under the same tests."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from labkit.model.minillm import MiniLLM
from labkit.tuning import adalora, adapted, ia3, lora
from labkit.tuning.adapted import AdaptedLinear

from .llama import tiny_llama

TARGETS = ("v_proj", "down_proj")  # (24 -> 8) and (40 -> 24)
RANK = 3


@dataclass(frozen=True)
class Method:
    """A method, what it trains and how many weights that is in one layer of (n -> m)."""

    apply: Callable[[nn.Module], nn.Module]
    kind: type[AdaptedLinear]
    parameters: tuple[str, ...]
    count: Callable[[int, int], int]


METHODS = {
    "lora": Method(
        lambda m: lora.apply(m, lora.LoraConfig(rank=RANK, target_modules=TARGETS)),
        lora.LoraLinear,
        ("lora_A", "lora_B"),
        lambda n, m: RANK * (n + m),
    ),
    "dora": Method(
        lambda m: lora.apply(m, lora.LoraConfig(rank=RANK, target_modules=TARGETS, use_dora=True)),
        lora.LoraLinear,
        ("lora_A", "lora_B", "lora_magnitude_vector"),
        lambda n, m: RANK * (n + m) + m,
    ),
    "ia3": Method(
        lambda m: ia3.apply(m, ia3.Ia3Config(target_modules=TARGETS)),
        ia3.Ia3Linear,
        ("ia3_l",),
        lambda n, m: n if n == 40 else m,  # down_proj is the feed-forward layer
    ),
    "adalora": Method(
        lambda m: adalora.apply(
            m,
            adalora.AdaLoraConfig(
                init_rank=RANK, target_rank=2, total_steps=9, target_modules=TARGETS
            ),
        ),
        adalora.SvdLinear,
        ("lora_A", "lora_E", "lora_B"),
        lambda n, m: RANK * (n + m + 1),
    ),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def ids(gen: torch.Generator) -> torch.Tensor:
    return torch.randint(97, (2, 11), generator=gen)


def loud_llama() -> nn.Module:
    """With weights of trained size, so that a change inside is seen outside."""
    model = tiny_llama(bias=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(5 if name.endswith("proj.weight") else 1)
    return model


def moved(model: nn.Module, gen: torch.Generator) -> nn.Module:
    """As if trained: what may train moves by about a tenth."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=gen), alpha=0.1)
    return model


@every_method
def test_start_is_the_identity_to_the_bit(method: Method, tiny_model: MiniLLM, gen) -> None:
    x, llama = ids(gen), tiny_llama(bias=True)
    plain, logits = tiny_model(x), llama(x).logits
    assert torch.equal(method.apply(tiny_model)(x), plain)
    assert torch.equal(method.apply(llama)(x).logits, logits)


@every_method
def test_only_adapters_move(method: Method, gen) -> None:
    model, x = method.apply(tiny_llama(bias=True)).train(), ids(gen)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):  # where one factor is zero, the other's first gradient is
        optimizer.zero_grad()
        model(x, labels=x).loss.backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        trains = not set(method.parameters).isdisjoint(name.split("."))
        assert torch.equal(parameter, before[name]) != trains, name
        assert (parameter.grad is not None) == trains, name


@every_method
def test_count_follows_the_formula(method: Method) -> None:
    counts = lora.trainable_parameters(method.apply(tiny_llama()))
    assert counts.trainable == 2 * (method.count(24, 8) + method.count(40, 24))


@every_method
def test_merge_equals_the_adapter_and_unmerge_is_exact(method: Method, gen) -> None:
    model, x = loud_llama(), ids(gen)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    plain = model(x).logits
    changed = moved(method.apply(model), gen)(x).logits
    assert (changed - plain).abs().max() > 1e-2
    merged = adapted.merge(model, method.kind)(x).logits
    torch.testing.assert_close(merged, changed, rtol=1e-5, atol=1e-5)
    assert torch.equal(adapted.unmerge(model, method.kind)(x).logits, changed)
    adapted.remove(model, method.kind)
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())


@every_method
def test_unloaded_and_disabled(method: Method, gen) -> None:
    model, x = loud_llama(), ids(gen)
    plain, names = model(x).logits, list(model.state_dict())
    changed = moved(method.apply(model), gen)(x).logits
    with adapted.disabled(model, method.kind):
        assert torch.equal(model(x).logits, plain)
    adapted.merge_and_unload(model, method.kind)
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model(x).logits, changed, rtol=1e-5, atol=1e-5)


@every_method
def test_bfloat16_base_keeps_its_dtype(method: Method, gen) -> None:
    model, x = method.apply(loud_llama().bfloat16()), ids(gen)
    changed = moved(model, gen)(x).logits
    assert changed.dtype == torch.bfloat16
    merged = adapted.merge(model, method.kind)(x).logits
    torch.testing.assert_close(merged, changed, rtol=2e-2, atol=2e-2)


@every_method
def test_a_second_method_is_refused(method: Method) -> None:
    model = method.apply(tiny_llama())
    for other in METHODS.values():
        with pytest.raises(ValueError, match="adapters already; call remove or merge_and_unload"):
            other.apply(model)
    with pytest.raises(ValueError, match=f"no {method.kind.method} adapters; call apply first"):
        adapted.layers(tiny_llama(), method.kind)
