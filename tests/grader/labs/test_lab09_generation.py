"""Lab 09: its expectations against other sources, and right answers of other kinds must pass."""

import itertools
import math
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers.generation import logits_process as warpers

from grader.checks.core import HIDDEN_SEEDS, PUBLIC_SEED, verdicts
from grader.labs.lab09_generation import check, drive, outside, recipe, reference
from labkit.inference.sampling import sample
from labkit.model.config import ModelConfig
from labkit.model.minillm import MiniLLM

SEEDS = (PUBLIC_SEED, *HIDDEN_SEEDS, 3, 4)


def by_warpers(z: Tensor, t: float, k: int | None = None, p: float | None = None) -> Tensor:
    z = z.float()
    if t == 0:
        return functional.one_hot(z.argmax(-1), z.shape[-1]).float()
    z = warpers.TemperatureLogitsWarper(t)(None, z)
    z = z if k is None else warpers.TopKLogitsWarper(k)(None, z)
    return (z if p is None else warpers.TopPLogitsWarper(p)(None, z)).softmax(-1)


def by_search(probs: Tensor, u: Tensor) -> Tensor:
    sums = np.cumsum(probs.double().numpy(), axis=1)
    found = [
        np.searchsorted(c / c[-1], x, side="right") for c, x in zip(sums, u.tolist(), strict=True)
    ]
    return torch.tensor(np.array(found))


def by_loops(q: Tensor, k: Tensor, v: Tensor, cache: Any) -> Tensor:
    past, (_, H, T, K), G = cache.length, q.shape, k.shape[1]
    if past + T > cache.keys.shape[2]:
        raise ValueError("full")
    y = torch.empty_like(q)
    for t in range(T):
        end = past + t + 1
        cache.keys[:, :, end - 1], cache.values[:, :, end - 1] = k[:, :, t], v[:, :, t]
        for h in range(H):
            keys, values = (x[:, h * G // H, :end] for x in (cache.keys, cache.values))
            scores = (keys @ q[:, h, t, :, None])[..., 0] / math.sqrt(K)
            y[:, h, t] = (scores.softmax(-1)[:, None] @ values)[:, 0]
    cache.length = past + T
    return y


def by_characters(pieces: Iterable[str], stops: tuple[str, ...]) -> Iterator[str]:
    for text in reference.until_stop(pieces, stops):
        yield from text


def beams_by_tensors(
    log_probs: Any, num_beams: int, longest: int, alpha: float, eos: int
) -> list[tuple[list[int], float]]:
    texts, totals = torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 1, dtype=torch.float64)
    done: list[tuple[list[int], float]] = []
    for length in range(1, longest + 1):
        totals = totals + log_probs(texts)
        V = totals.shape[1]
        for row, total in zip(texts.tolist(), totals.tolist(), strict=True):
            ends = range(V) if length == longest else [eos]
            done += [([*row, v], total[v] / length**alpha) for v in ends]
        done = sorted(done, key=lambda text: -text[1])[:num_beams]
        totals[:, eos] = -math.inf
        best, places = totals.flatten().topk(min(num_beams, totals.isfinite().sum().item()))
        texts = torch.cat([texts[places // V], (places % V)[:, None]], dim=1)
        totals = best[:, None]
        if len(done) == num_beams and float(best[0]) / longest**alpha <= done[-1][1]:
            break
    return done


@pytest.mark.parametrize(
    ("name", "impl"),
    [
        ("next_token_distribution", by_warpers),
        ("draw", by_search),
        ("attend", by_loops),
        ("until_stop", by_characters),
        ("beam_search", beams_by_tensors),
    ],
)
def test_right_answers_of_another_kind_pass(name: str, impl: Any) -> None:
    assert verdicts(check.LAB.check(name), impl, SEEDS).message == ""


def test_labkit_draws_what_the_exact_fractions_say(gen: torch.Generator) -> None:
    probs = torch.randn(40, 53, generator=gen).mul(2).softmax(-1)
    seeded = [torch.Generator().manual_seed(i) for i in range(40)]
    u = torch.cat([torch.rand(1, generator=g, dtype=torch.float64) for g in seeded])
    again = [torch.Generator().manual_seed(i) for i in range(40)]
    assert torch.equal(reference.draw(probs, u), sample(probs, again))


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.4])
def test_beams_enough_find_the_best_of_all_texts(rng: np.random.Generator, alpha: float) -> None:
    case = check._beam_case(rng, "", 10**4, alpha, ends=0.0)
    table, eos = case["table"][:4, :5, :4].log_softmax(-1), 2
    texts = [
        ids
        for n in range(1, 5)
        for ids in itertools.product(range(4), repeat=n)
        if eos not in ids[:-1] and (ids[-1] == eos or n == 4)
    ]
    scores = {}
    for ids in texts:
        rows = [table[t, ids[t - 1] if t else -1] for t in range(len(ids))]
        total = sum(float(row[v]) for row, v in zip(rows, ids, strict=True))
        scores[ids] = total / len(ids) ** alpha
    found = reference.beam_search(drive.Continuations(table), 10**4, 4, alpha, eos)
    assert [tuple(ids) for ids, _ in found] == sorted(scores, key=lambda ids: -scores[ids])
    assert [score for _, score in found] == pytest.approx(sorted(scores.values(), reverse=True))


def test_some_searches_end_early_and_some_run_to_the_limit(rng: np.random.Generator) -> None:
    early = []
    for case in check._beam_inputs(rng)["cases"]:
        model = drive.Continuations(case["table"])
        longest = len(case["table"])
        reference.beam_search(model, case["num_beams"], longest, case["alpha"], case["eos"])
        early.append(len(model.asked) < longest)
    assert {True, False} == set(early)


def test_each_fault_is_told_apart_and_leaves_the_full_path_right(rng: np.random.Generator) -> None:
    for fault in check.FAULTS * 5:
        case = check._decoder_case(rng, fault)
        cases = {"cases": [case, {**case, "fault": "healthy"}]}
        decoder, healthy = map(drive.Decoder, outside.decoders(cases)["cases"])
        ids = torch.arange(9)
        assert reference.diagnose(decoder) == fault
        assert torch.equal(decoder.full(ids), healthy.cached([ids]))


def test_the_recipe_runs_the_model_it_is_given(
    tiny_model: MiniLLM, tiny_config: ModelConfig, gen: torch.Generator
) -> None:
    ids = torch.randint(tiny_config.vocab_size, (1, 11), generator=gen)
    caches = recipe.empty_caches(tiny_model, 11)
    for chunk in ids.split([6, 1, 3, 1], dim=1):
        logits = recipe.next_logits(tiny_model, chunk, caches, reference.attend)
    torch.testing.assert_close(logits, tiny_model(ids)[:, -1], rtol=1e-4, atol=1e-5)


def test_the_envelopes_other_implementation_is_right(gen: torch.Generator) -> None:
    q, k, v = (torch.randn(2, heads, 1, 6, generator=gen) for heads in (9, 3, 3))
    caches = [drive.empty_cache(2, 3, 7, 6) for _ in range(2)]
    for cache in caches:
        cache.length = 5
        cache.keys[:, :, :5], cache.values[:, :, :5] = 0.3, -0.2
    outputs = [
        f(q, k, v, c) for f, c in zip((recipe.expanded, reference.attend), caches, strict=True)
    ]
    torch.testing.assert_close(*outputs)
    assert torch.equal(caches[0].keys, caches[1].keys)


def test_prediction_for_smollm2() -> None:
    config = ModelConfig.smollm2_135m()
    given = check.LAB.check("predict_decoding").inputs(np.random.default_rng(0))["cases"][0][
        "config"
    ]
    shape = SimpleNamespace(**{name: getattr(config, name) for name in given})
    kv, step, rate = reference.predict_decoding(shape, 2, 100, 1, 1e10)
    assert (kv, step) == (23_040, 2 * config.num_parameters + 100 * 23_040)
    assert rate == pytest.approx(1e10 / step)
