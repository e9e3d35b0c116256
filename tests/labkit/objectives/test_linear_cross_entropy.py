"""The loss from hidden states is that of the logits, with its gradients, in any chunks."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from labkit.objectives.language_modelling import IGNORE_INDEX
from labkit.objectives.linear_cross_entropy import linear_cross_entropy

N, D, V = 29, 11, 97


@pytest.fixture
def inputs(gen: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    hidden, weight = torch.randn(N, D, generator=gen), torch.randn(V, D, generator=gen)
    targets = torch.randint(0, V, (N,), generator=gen)
    targets[torch.rand(N, generator=gen) < 0.4] = IGNORE_INDEX
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = functional.linear(hidden, weight).float()
    return functional.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="sum")


@pytest.mark.parametrize("chunk_rows", [1, 7, 128])
def test_it_is_the_loss_of_the_logits(
    inputs: tuple[Tensor, Tensor, Tensor], chunk_rows: int
) -> None:
    hidden, weight, targets = inputs
    loss = linear_cross_entropy(hidden, weight, targets, chunk_rows=chunk_rows)
    expected = plain(hidden, weight, targets)
    torch.testing.assert_close(loss, expected)
    ours = torch.autograd.grad(3 * loss, (hidden, weight))
    theirs = torch.autograd.grad(3 * expected, (hidden, weight))
    for got, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert not ours[0][targets == IGNORE_INDEX].any()


def test_in_bfloat16_it_is_as_near_to_float64_as_the_plain_loss(
    inputs: tuple[Tensor, Tensor, Tensor],
) -> None:
    hidden, weight = (x.detach().bfloat16() for x in inputs[:2])
    exact = functional.cross_entropy(
        hidden.double() @ weight.double().T, inputs[2], ignore_index=-100, reduction="sum"
    )
    losses = (f(hidden, weight, inputs[2]) for f in (linear_cross_entropy, plain))
    errors = [abs(float(loss - exact)) for loss in losses]
    assert errors[0] <= 1.5 * errors[1] + 1e-3


def test_a_frozen_heads_gradient_is_not_computed(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    hidden, weight, targets = inputs
    frozen = weight.detach()
    loss = linear_cross_entropy(hidden, frozen, targets)
    loss.backward()
    assert hidden.grad is not None
    assert frozen.grad is None


class Largest(TorchDispatchMode):
    """The most rows of V numbers that an operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.shape[1:] == (V,) and made.is_contiguous():
            self.rows = max(self.rows, made.numel() // V)
        return made


def test_no_more_logits_exist_than_a_chunks(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    hidden, weight, targets = inputs
    with Largest() as largest:
        linear_cross_entropy(hidden, weight.detach(), targets, chunk_rows=5).backward()
    assert largest.rows == 5


def test_without_targets_it_is_zero(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    hidden, weight, targets = inputs
    loss = linear_cross_entropy(hidden, weight, torch.full_like(targets, IGNORE_INDEX))
    loss.backward()
    assert loss.item() == 0
    assert not hidden.grad.any()


def test_a_chunk_has_rows(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="chunk_rows=0 must be at least 1"):
        linear_cross_entropy(*inputs, chunk_rows=0)
