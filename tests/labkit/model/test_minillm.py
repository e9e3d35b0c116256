"""A random MiniLLM against transformers, and its ways of computing against one another."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from labkit.model import minillm
from labkit.model.cache import KVCache
from labkit.model.config import ModelConfig

# float32 sums in another order: a few units in the last place, relative to the largest logit.
TOLERANCE = 1e-4


def assert_near(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape
    error = (got - expected).abs().max() / expected.abs().max()
    assert error < TOLERANCE, f"relative error {error:.2e}"


@pytest.fixture
def model(tiny_model: minillm.MiniLLM) -> minillm.MiniLLM:
    """Weights large enough for sharp attention: a wrong mask must not hide in a near-mean."""
    with torch.no_grad():
        for parameter in tiny_model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(12)
    return tiny_model


@pytest.fixture
def ids(gen: torch.Generator) -> Tensor:
    return torch.randint(0, 97, (5, 13), generator=gen)


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_logits_equal_transformers(
    tiny_config: ModelConfig,
    as_llama: Callable[[minillm.MiniLLM], nn.Module],
    ids: Tensor,
    gen: torch.Generator,
    tied: bool,
) -> None:
    model = minillm.MiniLLM(replace(tiny_config, tie_embeddings=tied, norm_eps=0.02))
    for parameter in model.parameters():
        parameter.normal_(0.3, 0.3, generator=gen)
    assert_near(model(ids), as_llama(model)(ids).logits)


@pytest.mark.parametrize("steps", [(13,), (7, 3, 1, 1, 1), (1,) * 13, (4, 9)])
@torch.no_grad()
def test_cached_equals_recomputed(
    model: minillm.MiniLLM, ids: Tensor, steps: tuple[int, ...]
) -> None:
    cache = KVCache(model.config, batch_size=5, max_length=17)
    parts = [model(part, cache=cache) for part in ids.split(steps, dim=1)]
    assert cache.length == 13
    assert_near(torch.cat(parts, 1), model(ids))


@torch.no_grad()
def test_truncated_cache_continues(model: minillm.MiniLLM, ids: Tensor) -> None:
    cache = KVCache(model.config, batch_size=5, max_length=17)
    model(ids, cache=cache)
    cache.truncate(6)
    other = ids.flip(1)[:, :4]
    assert_near(model(other, cache=cache), model(torch.cat((ids[:, :6], other), 1))[:, 6:])


@pytest.fixture
def windowed(model: minillm.MiniLLM) -> minillm.MiniLLM:
    """The same weights, but a query sees four tokens."""
    narrow = minillm.MiniLLM(replace(model.config, sliding_window=4)).eval()
    narrow.load_state_dict(model.state_dict())
    return narrow


@torch.no_grad()
def test_a_window_hides_what_lies_before_it(windowed: minillm.MiniLLM, ids: Tensor) -> None:
    """Three layers of window 4 let a token see back 9 places, and no further."""
    first = torch.cat(((ids[:, :1] + 1) % 97, ids[:, 1:]), 1)
    same = (windowed(first) - windowed(ids)).abs().amax((0, 2)) == 0
    assert same.tolist() == [False] * 10 + [True] * 3


@pytest.mark.parametrize(
    "steps", [(13,), (7, 3, 1, 1, 1), (1,) * 13, (4, 9), (2, 1, 5, 5), (3, 10)]
)
@torch.no_grad()
def test_rolling_cache_equals_recomputed(
    windowed: minillm.MiniLLM, ids: Tensor, steps: tuple[int, ...]
) -> None:
    cache = KVCache(windowed.config, batch_size=5, max_length=17)
    parts = [windowed(part, cache=cache) for part in ids.split(steps, dim=1)]
    assert (cache.rows, cache.length) == (4, 13)
    assert_near(torch.cat(parts, 1), windowed(ids))


@pytest.mark.parametrize("steps", [(11, 1, 1), (5, 6, 2), (8, 1, 1, 1, 1, 1)])
@torch.no_grad()
def test_rolling_cache_under_left_padding(
    windowed: minillm.MiniLLM, ids: Tensor, steps: tuple[int, ...]
) -> None:
    rows = [ids[0, :9], ids[1, :13], ids[2, :5]]
    padded, mask = _left_padded(rows)
    cache = KVCache(windowed.config, batch_size=3, max_length=13)
    parts = []
    for part in padded.split(steps, dim=1):
        seen = mask[:, : cache.length + part.shape[1]]
        parts.append(windowed(part, cache=cache, padding_mask=seen))
    for row, got in zip(rows, torch.cat(parts, 1), strict=True):
        assert_near(got[-len(row) :], windowed(row[None])[0])


@torch.no_grad()
def test_packed_documents_keep_to_their_window(windowed: minillm.MiniLLM, ids: Tensor) -> None:
    lengths = (5, 1, 7)
    document_ids = torch.arange(3).repeat_interleave(torch.tensor(lengths)).expand(5, 13)
    separate = torch.cat([windowed(part) for part in ids.split(lengths, dim=1)], 1)
    assert_near(windowed(ids, document_ids=document_ids), separate)


def _left_padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    T = max(len(row) for row in rows)
    ids = torch.stack([torch.cat((torch.full((T - len(row),), 3), row)) for row in rows])
    mask = torch.stack([torch.arange(T) >= T - len(row) for row in rows])
    return ids, mask


@torch.no_grad()
def test_left_padded_rows_equal_each_alone(model: minillm.MiniLLM, ids: Tensor) -> None:
    rows = [ids[0, :9], ids[1, :13], ids[2, :2]]
    padded, mask = _left_padded(rows)
    logits = model(padded, padding_mask=mask)
    assert logits.isfinite().all()
    for row, got in zip(rows, logits, strict=True):
        assert_near(got[-len(row) :], model(row[None])[0])


@torch.no_grad()
def test_left_padded_rows_decode_as_each_alone(model: minillm.MiniLLM, ids: Tensor) -> None:
    rows = [ids[0, :9], ids[1, :13], ids[2, :2]]
    padded, mask = _left_padded([row[:-2] if len(row) > 2 else row[:1] for row in rows])
    cache = KVCache(model.config, batch_size=3, max_length=14)
    model(padded, cache=cache, padding_mask=mask)
    ends = [row[-2:] if len(row) > 2 else row[1:] for row in rows]
    step = torch.stack([end[:1] for end in ends])
    mask = torch.cat((mask, torch.ones(3, 1, dtype=torch.bool)), 1)
    got = model(step, cache=cache, padding_mask=mask)
    for row, end, logits in zip(rows, ends, got, strict=True):
        whole = row[: len(row) - len(end) + 1]
        assert_near(logits, model(whole[None])[0, -1:])


def test_padding_counts_for_nothing(ids: Tensor) -> None:
    _, mask = _left_padded([ids[0, :2], ids[1, :5]])
    cached = minillm.default_positions(ids[:2, :2], 3, mask)
    assert cached.tolist() == [[0, 1], [3, 4]]
    assert minillm.default_positions(ids[:2, :5], 0, mask)[0].tolist() == [0, 0, 0, 0, 1]
    allowed = minillm.attention_mask(ids[:2, :5], 0, mask, None)
    assert allowed is not None
    assert allowed.any(-1).all(), "a softmax over nothing"


@torch.no_grad()
def test_packed_documents_equal_separate_runs(model: minillm.MiniLLM, ids: Tensor) -> None:
    lengths = (4, 1, 8)
    document_ids = torch.arange(3).repeat_interleave(torch.tensor(lengths)).expand(5, 13)
    restarted = torch.cat([torch.arange(n) for n in lengths]).expand(5, 13)
    separate = torch.cat([model(part) for part in ids.split(lengths, dim=1)], 1)
    assert_near(model(ids, document_ids=document_ids), separate)
    packed = model(ids, document_ids=document_ids, positions=restarted)
    assert_near(packed, separate)
    assert not torch.allclose(model(ids), separate, rtol=0.01)


@torch.no_grad()
def test_last_only_is_the_last_row(model: minillm.MiniLLM, ids: Tensor) -> None:
    assert_near(model(ids, last_only=True), model(ids)[:, -1:])


@torch.no_grad()
def test_no_token_sees_a_later_one(model: minillm.MiniLLM, ids: Tensor) -> None:
    changed = ids.clone()
    changed[:, 8:] = (changed[:, 8:] + 1) % 97
    assert torch.equal(model(changed)[:, :8], model(ids)[:, :8])


def test_tied_head_is_one_tensor_also_in_a_copy(model: minillm.MiniLLM) -> None:
    for each in (model, copy.deepcopy(model), copy.deepcopy(model).double()):
        assert each.lm_head.weight is each.model.embed_tokens.weight


def test_every_parameter_gets_a_gradient(model: minillm.MiniLLM, ids: Tensor) -> None:
    model(ids).logsumexp(-1).mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_initialise_starts_biases_at_zero(tiny_config: ModelConfig) -> None:
    model = minillm.MiniLLM(replace(tiny_config, norm="layer"))
    minillm.initialise(model, torch.Generator().manual_seed(1))
    norm = model.model.norm
    assert norm.weight.unique().tolist() == [1.0]
    assert norm.bias.unique().tolist() == [0.0]


def test_initialise_draws_the_stated_spread(tiny_config: ModelConfig) -> None:
    model = minillm.MiniLLM(replace(tiny_config, width=240, ffn_width=400))
    before = torch.get_rng_state()
    minillm.initialise(model, torch.Generator().manual_seed(1))
    assert torch.equal(before, torch.get_rng_state())
    block = model.model.layers[1]
    assert block.mlp.up_proj.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert block.mlp.down_proj.weight.std().item() == pytest.approx(0.02 / math.sqrt(6), rel=0.02)
    assert block.input_layernorm.weight.unique().tolist() == [1.0]
    again = minillm.MiniLLM(model.config)
    minillm.initialise(again, torch.Generator().manual_seed(1))
    assert all(map(torch.equal, model.parameters(), again.parameters()))


@torch.no_grad()
def test_refusals_name_the_values(model: minillm.MiniLLM, ids: Tensor) -> None:
    with pytest.raises(ValueError, match="121 tokens exceed max_length=120"):
        model(torch.zeros(1, 121, dtype=torch.long))
    with pytest.raises(ValueError, match=r"padding_mask covers 12 tokens.*are 13"):
        model(ids, padding_mask=torch.ones(5, 12, dtype=torch.bool))
    cache = KVCache(model.config, batch_size=5, max_length=20)
    model(ids, cache=cache)
    with pytest.raises(ValueError, match="already holds 13 tokens"):
        model(ids[:, :2], cache=cache, document_ids=torch.zeros(5, 2, dtype=torch.long))


def test_cache_refuses_gradients(model: minillm.MiniLLM, ids: Tensor) -> None:
    with pytest.raises(ValueError, match="no_grad"):
        model(ids, cache=KVCache(model.config, batch_size=5, max_length=20))


@torch.no_grad()
def test_the_head_is_given_whole_rows_when_only_the_last_is_asked(tiny_model, gen) -> None:
    # torch folds a strided slice only for weights that need gradients; else it copies them B times.
    seen: list[Tensor] = []
    tiny_model.lm_head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    ids = torch.randint(97, (3, 5), generator=gen)
    last = tiny_model(ids, last_only=True)
    torch.testing.assert_close(last, tiny_model(ids)[:, -1:])
    assert seen[0].is_contiguous()
