"""Recomputation changes nothing but memory: against no checkpointing and against torch's."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from labkit.data.batch import TokenBatch
from labkit.model.cache import KVCache
from labkit.model.minillm import MiniLLM
from labkit.training.efficiency.checkpointing import checkpoint, checkpointed
from labkit.training.forward import causal_lm_loss
from labkit.tuning import lora

B, T = 3, 11


def token_ids() -> Tensor:
    return torch.randint(0, 97, (B, T), generator=torch.Generator().manual_seed(3))


def step(model: nn.Module) -> dict[str, Tensor]:
    """The loss and the gradients it leaves."""
    loss, _ = causal_lm_loss(model, TokenBatch(ids=token_ids(), labels=token_ids()))
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return {"loss": loss.detach()} | found


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


class Torchs(nn.Module):
    """A layer under torch's own checkpoint."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any) -> Any:
        return torch_checkpoint(self.layer, *args, use_reentrant=False)


@pytest.mark.parametrize("mode", ["full", "selective"])
class TestModel:
    def test_it_is_no_checkpointing_and_torchs_bit_for_bit(
        self, tiny_model: MiniLLM, mode: str
    ) -> None:
        plain = step(tiny_model)
        with checkpointed(tiny_model, mode):
            ours = step(tiny_model)
        assert_same(ours, plain)
        wrapped = copy.deepcopy(tiny_model)
        wrapped.model.layers = nn.ModuleList(Torchs(layer) for layer in wrapped.model.layers)
        theirs = {name.replace(".layer.", "."): x for name, x in step(wrapped).items()}
        assert_same(ours, theirs)

    def test_under_autocast_it_casts_as_the_first_run_did(
        self, tiny_model: MiniLLM, mode: str
    ) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            plain = tiny_model(token_ids()).float()
            with checkpointed(tiny_model, mode):
                ours = tiny_model(token_ids()).float()
        expected = torch.autograd.grad(plain.sum(), list(tiny_model.parameters()))
        found = torch.autograd.grad(ours.sum(), list(tiny_model.parameters()))
        assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))

    def test_a_frozen_embedding_before_it_stops_no_gradient(
        self, tiny_model: MiniLLM, mode: str
    ) -> None:
        lora.apply(tiny_model, lora.LoraConfig(rank=3, target_modules=("k_proj", "up_proj")))
        for layer in lora.layers(tiny_model).values():
            nn.init.normal_(layer.lora_B.weight, generator=torch.Generator().manual_seed(1))
        plain = step(tiny_model)
        with checkpointed(tiny_model, mode):
            assert_same(step(tiny_model), plain)
        assert len(plain) == 1 + 2 * 2 * 3

    def test_a_transformers_model_too(
        self, tiny_model: MiniLLM, as_llama: Callable[[MiniLLM], nn.Module], mode: str
    ) -> None:
        llama = as_llama(tiny_model)
        plain = step(llama)
        with checkpointed(llama, mode):
            assert_same(step(llama), plain)

    def test_afterwards_the_model_is_as_it_was(self, tiny_model: MiniLLM, mode: str) -> None:
        names = list(tiny_model.state_dict())
        with checkpointed(tiny_model, mode):
            assert list(tiny_model.state_dict()) == names
            with pytest.raises(ValueError, match="already"), checkpointed(tiny_model, mode):
                pass
        with pytest.raises(IndexError), checkpointed(tiny_model, mode):
            tiny_model(torch.full((1, 2), 1000))
        assert not any("forward" in vars(module) for module in tiny_model.modules())

    def test_without_gradients_it_is_the_function_itself(
        self, tiny_model: MiniLLM, mode: str
    ) -> None:
        cache = KVCache(tiny_model.config, batch_size=B, max_length=T)
        with torch.no_grad(), checkpointed(tiny_model, mode):
            assert not tiny_model(token_ids(), cache=cache).requires_grad
        assert cache.length == T

    def test_a_cache_is_refused(self, tiny_model: MiniLLM, mode: str) -> None:
        cache = KVCache(tiny_model.config, batch_size=B, max_length=T)
        with checkpointed(tiny_model, mode), pytest.raises(ValueError, match="type KVCache"):
            tiny_model(token_ids(), cache=cache)


class TestRandomState:
    def segment(self, x: Tensor) -> Tensor:
        noise = torch.randn(x.shape)
        return nn.functional.dropout(x * noise, 0.4).sin()

    def run(self, wrap: Callable[..., Any]) -> tuple[list[Tensor], Tensor]:
        """Output, gradient and what is drawn afterwards."""
        x = torch.linspace(-2, 2, 35).view(5, 7).requires_grad_()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            y = wrap(self.segment, wrap(self.segment, x))
            between = torch.rand(3)
            (gradient,) = torch.autograd.grad(y.sum(), x)
            return [y, gradient, between], torch.rand(3)

    def test_the_second_run_draws_the_numbers_of_the_first(self) -> None:
        (ours, after), (plain, expected) = self.run(checkpoint), self.run(lambda f, x: f(x))
        assert all(torch.equal(x, y) for x, y in zip(ours, plain, strict=True))
        assert torch.equal(after, expected)


def test_a_tuple_may_hold_none_and_named_arguments_get_gradients() -> None:
    def f(x: Tensor, *, y: Tensor, power: int) -> tuple[Tensor, None, Tensor]:
        return x * y**power, None, y.exp()

    x, y = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in ([2.0, 3], [1.0, 4]))
    first, nothing, second = checkpoint(f, x, y=y, power=3)
    assert nothing is None
    found = torch.autograd.grad((first.sum() + second.sum()), (x, y))
    plain = f(x, y=y, power=3)
    expected = torch.autograd.grad(plain[0].sum() + plain[2].sum(), (x, y))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_only_one_output_may_be_used() -> None:
    x = torch.ones(3, requires_grad=True)
    first, _ = checkpoint(lambda x: (x.sin(), x.cos()), x)
    (gradient,) = torch.autograd.grad(first.sum(), x)
    assert torch.equal(gradient, torch.ones(3).cos())


def test_refusals(tiny_model: MiniLLM) -> None:
    with (
        pytest.raises(ValueError, match="mode='some' must be one of"),
        checkpointed(tiny_model, "some"),
    ):
        pass
    with pytest.raises(ValueError, match="inside a tuple requires a gradient"):
        checkpoint(lambda pair: pair[0], (torch.ones(2, requires_grad=True),))
    with pytest.raises(ValueError, match="type list"):
        checkpoint(sum, [1, 2])
