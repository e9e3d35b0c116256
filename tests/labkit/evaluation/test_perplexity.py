"""Sliding windows against one forward pass per token, and against transformers' own loss."""

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from labkit.evaluation.perplexity import perplexity, sliding_windows
from labkit.model.minillm import MiniLLM
from labkit.model.zoo import Loaded

FORMS = pytest.mark.parametrize(
    ("window", "stride"), [(11, 10), (11, 7), (11, 1), (29, 13), (60, 20)]
)


@pytest.fixture
def ids(gen: torch.Generator) -> Tensor:
    return torch.randint(97, (53,), generator=gen)


@pytest.fixture
def sharp_model(tiny_model: MiniLLM) -> MiniLLM:
    """Far from uniform, so that a token's context matters to its probability."""
    with torch.no_grad():
        for parameter in tiny_model.parameters():
            parameter *= 7 if parameter.ndim > 1 else 1
    return tiny_model


def brute_force(
    model: MiniLLM, ids: Tensor, window: int, stride: int, bos_id: int | None = None
) -> list[float]:
    """Token by token in float64: the earliest window that holds t is the one that scores it."""
    model = copy.deepcopy(model).double()
    nats = []
    for t in range(0 if bos_id is not None else 1, len(ids)):
        begin = max(0, math.ceil((t + 1 - window) / stride)) * stride
        context = ids[begin:t].tolist()
        context = context if bos_id is None else [bos_id, *context]
        with torch.no_grad():
            logits = model(torch.tensor([context]))[0, -1].double().numpy()
        nats.append(math.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[ids[t]])
    return nats


@FORMS
@pytest.mark.parametrize("batch_size", [1, 3])
def test_equals_brute_force(
    sharp_model: MiniLLM, ids: Tensor, window: int, stride: int, batch_size: int
) -> None:
    result = perplexity(sharp_model, ids, window=window, stride=stride, batch_size=batch_size)
    expected = brute_force(sharp_model, ids, window, stride)
    np.testing.assert_allclose(result.token_nats, expected, rtol=1e-4, atol=1e-5)
    assert result.tokens == 52
    assert result.nll_nats == pytest.approx(sum(expected), rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(sum(expected) / 52), rel=1e-4)


@pytest.mark.parametrize(("window", "stride"), [(11, 11), (11, 4), (60, 60)])
def test_bos_goes_before_every_window(
    sharp_model: MiniLLM, ids: Tensor, window: int, stride: int
) -> None:
    result = perplexity(sharp_model, ids, window=window, stride=stride, bos_id=0, batch_size=2)
    expected = brute_force(sharp_model, ids, window, stride, bos_id=0)
    np.testing.assert_allclose(result.token_nats, expected, rtol=1e-4, atol=1e-5)
    assert result.tokens == 53


@FORMS
def test_equals_the_loss_of_transformers(
    sharp_model: MiniLLM,
    as_llama: Callable[[MiniLLM], nn.Module],
    ids: Tensor,
    window: int,
    stride: int,
) -> None:
    """Labels of tokens already scored are -100, as transformers' documentation does it."""
    llama = as_llama(sharp_model)
    total, count, scored = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        labels = ids[None, begin:end].clone()
        labels[:, : scored - begin] = -100
        num_scored = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            loss = llama(ids[None, begin:end], labels=labels).loss
        total, count, scored = total + float(loss) * num_scored, count + num_scored, end
        if end == len(ids):
            break
    for model in (sharp_model, llama):
        result = perplexity(model, ids, window=window, stride=stride)
        assert result.tokens == count
        assert result.perplexity == pytest.approx(math.exp(total / count), rel=1e-4)


@given(
    num_tokens=st.integers(1, 90),
    window=st.integers(1, 40),
    stride=st.integers(1, 40),
    has_bos=st.booleans(),
)
def test_every_token_is_scored_once_with_context(
    num_tokens: int, window: int, stride: int, has_bos: bool
) -> None:
    first = 0 if has_bos else 1
    if stride > window - first or num_tokens <= first:
        with pytest.raises(ValueError, match=f"{stride}|{num_tokens}"):
            sliding_windows(num_tokens, window=window, stride=stride, has_bos=has_bos)
        return
    windows = sliding_windows(num_tokens, window=window, stride=stride, has_bos=has_bos)
    scored = [t for w in windows for t in range(w.first_scored, w.end)]
    assert scored == list(range(first, num_tokens))
    for index, w in enumerate(windows):
        assert 0 <= w.begin < w.end <= num_tokens
        assert w.end - w.begin <= window
        if index:
            assert w.first_scored - w.begin == window - stride


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(
    tiny_model: MiniLLM, ids: Tensor
) -> None:
    with torch.no_grad():
        tiny_model.model.norm.weight.zero_()
    result = perplexity(tiny_model, ids, window=17, stride=5)
    assert result.perplexity == pytest.approx(97, rel=1e-5)


def test_dropout_is_off_and_the_models_modes_return(sharp_model: MiniLLM, ids: Tensor) -> None:
    sharp_model.lm_head = nn.Sequential(nn.Dropout(0.5), sharp_model.lm_head)
    expected = perplexity(sharp_model.eval(), ids, window=17, stride=5).perplexity
    sharp_model.train()
    sharp_model.model.layers[1].eval()
    modes = [module.training for module in sharp_model.modules()]
    assert perplexity(sharp_model, ids, window=17, stride=5).perplexity == expected
    assert [module.training for module in sharp_model.modules()] == modes


def test_bad_input_is_refused(tiny_model: MiniLLM, ids: Tensor) -> None:
    for stride in (0, 11, 12):
        with pytest.raises(ValueError, match=rf"stride={stride} with window=11 .* 1\.\.10"):
            perplexity(tiny_model, ids, window=11, stride=stride)
    with pytest.raises(ValueError, match="batch_size=0"):
        perplexity(tiny_model, ids, window=11, stride=5, batch_size=0)
    with pytest.raises(ValueError, match="1 tokens are too few"):
        perplexity(tiny_model, ids[:1], window=11, stride=5)


def test_the_real_model_prefers_english_and_longer_context(smollm2: Loaded) -> None:
    text = (
        "The dictionary is a mutable mapping. The sun rises in the east and sets in the west, "
        "and the days of the week are Monday, Tuesday, Wednesday, Thursday, Friday, Saturday."
    )
    ids = torch.tensor(smollm2.tokenizer.encode(text))
    long = perplexity(smollm2.model, ids, window=64, stride=32).perplexity
    short = perplexity(smollm2.model, ids, window=4, stride=3).perplexity
    shuffled = ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))]
    assert long < 20
    assert short > 3 * long
    assert perplexity(smollm2.model, shuffled, window=64, stride=32).perplexity > 20 * long
