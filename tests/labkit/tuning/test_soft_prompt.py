"""Prompt tuning, P-tuning and prefix tuning: against PEFT, against real tokens, and on MiniLLM."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from labkit.model.cache import KVCache
from labkit.tuning import lora, p_tuning, prefix_tuning, prompt_tuning
from labkit.tuning.p_tuning import PTuningConfig
from labkit.tuning.prefix_tuning import PrefixTuningConfig
from labkit.tuning.prompt_tuning import PromptTuningConfig

from .prompts import COUNTS, METHODS, P, every_method, ids, loud_llama, pair, theirs_logits, twin


@every_method
def test_logits_loss_and_gradients_equal_pefts(method: str, gen) -> None:
    ours, theirs = pair(method, gen)
    x = ids(gen)
    plain = loud_llama()(x).logits
    assert (ours(x).logits - plain).abs().max() > 0.1
    expected = theirs_logits(theirs, method, input_ids=x)
    torch.testing.assert_close(ours(x).logits, expected, rtol=1e-5, atol=1e-5)
    loss, oracle = ours(x, labels=x).loss, theirs(input_ids=x, labels=x).loss
    torch.testing.assert_close(loss, oracle, rtol=1e-6, atol=0)
    loss.backward()
    oracle.backward()
    grads = {
        name.replace("prompt_embeddings", "embedding.weight"): parameter.grad
        for name, parameter in ours.soft_prompt.named_parameters()
    }
    for name, parameter in theirs.prompt_encoder["default"].named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)
    frozen = [p for name, p in ours.named_parameters() if "soft_prompt" not in name]
    assert frozen
    assert all(p.grad is None and not p.requires_grad for p in frozen)


@every_method
def test_left_padding_changes_nothing(method: str, gen) -> None:
    ours, theirs = pair(method, gen)
    x = ids(gen, 7)
    padded = torch.cat((torch.full((2, 4), 9), x), dim=1)
    mask = torch.cat((torch.zeros(2, 4, dtype=torch.long), torch.ones_like(x)), dim=1)
    expected = theirs_logits(theirs, method, input_ids=padded, attention_mask=mask)[:, 4:]
    got = ours(padded, attention_mask=mask).logits[:, 4:]
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@every_method
def test_minillm_equals_transformers(method: str, gen) -> None:
    ours, _ = pair(method, gen)
    mini = METHODS[method][0](twin(loud_llama()), METHODS[method][1])
    mini.soft_prompt.load_state_dict(ours.soft_prompt.state_dict())
    x = ids(gen)
    got, expected = mini(x), ours(x).logits
    assert got.shape == (2, 11, 97)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    got.square().sum().backward()
    expected.square().sum().backward()
    for (name, a), b in zip(
        mini.soft_prompt.named_parameters(), ours.soft_prompt.parameters(), strict=True
    ):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3, msg=name)


@every_method
@torch.no_grad()
def test_decoding_from_a_cache_equals_one_call(method: str, gen) -> None:
    ours, _ = pair(method, gen)
    mini = METHODS[method][0](twin(loud_llama()), METHODS[method][1])
    mini.soft_prompt.load_state_dict(ours.soft_prompt.state_dict())
    x = ids(gen, 8)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[1, :2] = False
    whole = mini(x, padding_mask=mask)
    cache = KVCache(mini.config, batch_size=2, max_length=20)
    steps = [mini(x[:, :5], cache=cache, padding_mask=mask[:, :5])]
    assert cache.length == P + 5
    for t in range(5, 8):
        steps.append(mini(x[:, t : t + 1], cache=cache, padding_mask=mask[:, : t + 1]))
    cached = torch.cat(steps, dim=1)
    torch.testing.assert_close(cached[0], whole[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(cached[1, 2:], whole[1, 2:], rtol=1e-4, atol=1e-4)
    assert torch.equal(
        mini(x, padding_mask=mask, last_only=True).argmax(-1)[:, 0], whole.argmax(-1)[:, -1]
    )


@every_method
@torch.no_grad()
def test_transformers_generate_goes_through_the_prompt(method: str, gen) -> None:
    ours, _ = pair(method, gen)
    x = ids(gen, 6)
    got = ours.generate(
        x,
        attention_mask=torch.ones_like(x),
        max_new_tokens=7,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
    )
    expected = x
    for _ in range(7):
        expected = torch.cat((expected, ours(expected).logits[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(got, expected)


@every_method
def test_count_start_and_removal(method: str, gen) -> None:
    apply, config, _ = METHODS[method]
    state = torch.random.get_rng_state()
    model, other = apply(loud_llama(), config), apply(loud_llama(), config)
    assert torch.equal(torch.random.get_rng_state(), state)
    for a, b in zip(model.soft_prompt.parameters(), other.soft_prompt.parameters(), strict=True):
        assert torch.equal(a, b)
    assert lora.trainable_parameters(model).trainable == COUNTS[method]
    x = ids(gen)
    changed = copy.deepcopy(model)(x).logits
    assert torch.equal(model(x).logits, changed)
    module = {"pr": prompt_tuning, "p-": p_tuning}.get(method[:2], prefix_tuning)
    module = prefix_tuning if method.startswith("prefix") else module
    module.remove(model)
    assert torch.equal(model(x).logits, loud_llama()(x).logits)
    assert list(model.state_dict()) == list(loud_llama().state_dict())
    with pytest.raises(ValueError, match="prompt; call apply first"):
        module.remove(model)


@pytest.mark.parametrize("mini", [False, True])
def test_from_real_tokens_the_start_is_the_model_after_them(mini: bool, gen) -> None:
    """Both kinds of virtual token, set to what three real tokens are, equal these tokens."""
    x, start = ids(gen), (5, 61, 20)
    after = torch.cat((torch.tensor([start, start]), x), dim=1)
    for apply, config in (
        (prompt_tuning.apply, PromptTuningConfig(num_virtual_tokens=P, init_ids=start)),
        (prefix_tuning.apply, PrefixTuningConfig(num_virtual_tokens=P, init_ids=start)),
    ):
        model: nn.Module = twin(loud_llama()) if mini else loud_llama()
        expected = model(after)
        got = apply(model, config)(x)
        if not mini:
            expected, got = expected.logits, got.logits
        torch.testing.assert_close(got, expected[:, P:], rtol=1e-4, atol=1e-5)


def test_positions_of_the_caller_are_shifted(gen) -> None:
    for name in METHODS:
        mini = METHODS[name][0](twin(loud_llama()), METHODS[name][1])
        x = ids(gen)
        torch.testing.assert_close(mini(x, positions=torch.arange(11).expand(2, 11)), mini(x))


def test_what_cannot_work_is_refused(gen) -> None:
    mini = prompt_tuning.apply(twin(loud_llama()), PromptTuningConfig(num_virtual_tokens=P))
    x = ids(gen)
    with pytest.raises(ValueError, match="do not pack rows"):
        mini(x, document_ids=torch.zeros_like(x))
    with pytest.raises(ValueError, match="has prompt tuning adapters already"):
        lora.apply(mini, lora.LoraConfig())
    llama = prompt_tuning.apply(loud_llama(), PromptTuningConfig(num_virtual_tokens=P))
    with pytest.raises(ValueError, match="takes input_ids, no embeddings"):
        llama(inputs_embeds=torch.zeros(2, 3, 24))
    with pytest.raises(ValueError, match="by name"):
        llama(x, torch.ones_like(x))
    with pytest.raises(ValueError, match="not a Linear"):
        p_tuning.apply(nn.Linear(3, 2), PTuningConfig())
    beyond = PromptTuningConfig(num_virtual_tokens=1, init_ids=(97,))
    with pytest.raises(ValueError, match=r"must lie in \[0, 97\)"):
        prompt_tuning.apply(loud_llama(), beyond)
    windowed = loud_llama()
    windowed.config.sliding_window = 5
    with pytest.raises(ValueError, match="sliding_window=5 would roll over the prefix"):
        prefix_tuning.apply(windowed, PrefixTuningConfig())


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (PromptTuningConfig, {"num_virtual_tokens": 0}, "num_virtual_tokens=0"),
        (PromptTuningConfig, {"init_ids": (1, 2)}, "init_ids has 2 tokens for .*=20"),
        (PTuningConfig, {"encoder": "gru"}, "encoder='gru'"),
        (PTuningConfig, {"hidden": 0}, "hidden=0"),
        (PrefixTuningConfig, {"hidden": 0}, "hidden=0"),
        (
            PrefixTuningConfig,
            {"num_virtual_tokens": 1, "init_ids": (4,), "projection": True},
            "projection=True computes",
        ),
    ],
)
def test_wrong_options_are_refused(kind: Any, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**options)
