"""Master weights against a cast that autograd goes through, and what 16 bits lose without them."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from labkit.model.minillm import MiniLLM
from labkit.objectives.language_modelling import cross_entropy
from labkit.training.efficiency.loss_scaling import LossScaler, LossScalingConfig
from labkit.training.efficiency.mixed_precision import MasterWeights, underflow

B, T = 3, 11


def token_ids(step: int) -> Tensor:
    return torch.randint(0, 97, (B, T), generator=torch.Generator().manual_seed(step))


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-2)


def mean_loss(logits: Tensor, ids: Tensor) -> Tensor:
    loss, count = cross_entropy(logits, ids)
    return loss / count


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_is_float32_training_through_a_cast_bit_for_bit(
    tiny_model: MiniLLM, dtype: torch.dtype
) -> None:
    """Oracle: float32 parameters, cast inside the function that is differentiated."""
    low = copy.deepcopy(tiny_model)
    masters = MasterWeights(low, dtype, sgd)
    optimizer = sgd(list(tiny_model.parameters()))
    for number in range(4):
        mean_loss(low(token_ids(number)), token_ids(number)).backward()
        norm = masters.step(clip_norm=0.5).grad_norm
        cast = {name: p.to(dtype) for name, p in tiny_model.named_parameters()}
        logits = functional_call(tiny_model, cast, (token_ids(number),))
        optimizer.zero_grad()
        mean_loss(logits, token_ids(number)).backward()
        theirs = nn.utils.clip_grad_norm_(tiny_model.parameters(), 0.5)
        optimizer.step()
        assert norm == pytest.approx(theirs.item(), rel=1e-5)
    for copied, parameter in zip(masters.copies, tiny_model.parameters(), strict=True):
        torch.testing.assert_close(copied, parameter, rtol=1e-5, atol=1e-7)
    for parameter, copied in zip(low.parameters(), masters.copies, strict=True):
        assert torch.equal(parameter, copied.to(dtype))
        assert parameter.grad is None


def test_updates_too_small_for_bfloat16_add_up_in_the_copy() -> None:
    model, naive = (nn.Linear(1, 1, bias=False) for _ in range(2))
    for layer in (model, naive):
        nn.init.ones_(layer.weight)
    masters = MasterWeights(model, torch.bfloat16, lambda p: torch.optim.SGD(p, lr=2**-10))
    naive.to(torch.bfloat16)
    optimizer = torch.optim.SGD(naive.parameters(), lr=2**-10)
    for _ in range(16):
        model(torch.ones(1, 1, dtype=torch.bfloat16)).sum().backward()
        masters.step()
        optimizer.zero_grad()
        naive(torch.ones(1, 1, dtype=torch.bfloat16)).sum().backward()
        optimizer.step()
    assert naive.weight.item() == 1.0
    assert masters.copies[0].item() == model.weight.item() == 1 - 16 * 2**-10


def test_small_float16_gradients_vanish_unless_the_loss_is_scaled() -> None:
    def trained(scaler: LossScaler | None) -> float:
        model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(model.weight)
        masters = MasterWeights(model, torch.float16, lambda p: torch.optim.SGD(p, lr=1e5))
        # The gradient is a product of two small halves, 2^-26: below float16's 2^-24.
        loss = model(torch.full((1, 1), 2**-13, dtype=torch.float16)).sum() * 2**-13
        (loss if scaler is None else scaler.scaled(loss)).backward()
        masters.step(scaler=scaler)
        return masters.copies[0].item()

    assert trained(None) == 1.0
    scaler = LossScaler(LossScalingConfig(initial_scale=2.0**12))
    assert trained(scaler) == pytest.approx(1 - 1e5 * 2**-26, rel=1e-6)


def test_an_overflow_changes_nothing_but_the_scale() -> None:
    model = nn.Linear(3, 2)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    masters = MasterWeights(model, torch.float16, sgd)
    scaler = LossScaler(LossScalingConfig(initial_scale=2.0**16))
    scaler.scaled(model(torch.full((4, 3), 9.0, dtype=torch.float16)).sum()).backward()
    assert masters.step(scaler=scaler, clip_norm=1.0).skipped
    assert scaler.state.scale == 2.0**15
    assert all(torch.equal(a, b) for a, b in zip(masters.copies, before, strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_only_what_trains_has_a_copy(tiny_model: MiniLLM) -> None:
    tiny_model.requires_grad_(False)
    tiny_model.model.norm.weight.requires_grad_(True)
    masters = MasterWeights(tiny_model, torch.bfloat16, sgd)
    assert [tuple(copied.shape) for copied in masters.copies] == [(24,)]
    assert {p.dtype for p in tiny_model.parameters()} == {torch.bfloat16}


def test_underflow_counts_what_becomes_zero() -> None:
    gradients = [torch.tensor([0.0, 1.0, 2.0**-30]), torch.tensor([-(2.0**-26)])]
    assert underflow(gradients, torch.float16) == pytest.approx(2 / 3)
    assert underflow(gradients, torch.float16, scale=2.0**3) == pytest.approx(1 / 3)
    assert underflow(gradients, torch.bfloat16) == 0.0
    assert underflow([], torch.float16) == 0.0


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"dtype=torch\.float32"):
        MasterWeights(nn.Linear(2, 2), torch.float32, sgd)
    with pytest.raises(ValueError, match="no parameter"):
        MasterWeights(nn.Linear(2, 2).requires_grad_(False), torch.bfloat16, sgd)
    with pytest.raises(ValueError, match="have lost bits"):
        MasterWeights(nn.Linear(2, 2).bfloat16(), torch.bfloat16, sgd)
