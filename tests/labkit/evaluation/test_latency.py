"""What is timed, not how long it takes: calls, shapes and counts."""

import pytest
import torch

from labkit.evaluation.latency import Speed, measure_decode, measure_prefill
from labkit.model.minillm import MiniLLM
from labkit.runtime.timing import Timing


@pytest.fixture
def ids(gen: torch.Generator) -> torch.Tensor:
    return torch.randint(97, (3, 17), generator=gen)


@pytest.fixture
def calls(tiny_model: MiniLLM) -> list[tuple[int, ...]]:
    """Shapes of the ids of every forward pass."""
    seen: list[tuple[int, ...]] = []
    tiny_model.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    return seen


def test_decode_runs_the_steps_and_prefills_once(
    tiny_model: MiniLLM, ids: torch.Tensor, calls: list[tuple[int, ...]]
) -> None:
    speed = measure_decode(tiny_model, ids, new_tokens=5, warmup=2, repeats=4)
    assert calls == [(3, 17)] + [(3, 1)] * 5 * (2 + 4)
    assert (speed.tokens, speed.steps, len(speed.timing.samples_s)) == (15, 5, 4)


def test_decode_feeds_the_greedy_text(tiny_model: MiniLLM, ids: torch.Tensor) -> None:
    fed: list[torch.Tensor] = []
    handle = tiny_model.register_forward_pre_hook(lambda _, args: fed.append(args[0]))
    measure_decode(tiny_model, ids, new_tokens=5, warmup=0, repeats=2)
    handle.remove()
    text = ids
    for token in fed[1:6]:
        assert torch.equal(token, tiny_model(text)[:, -1:].argmax(-1))
        text = torch.cat([text, token], dim=1)
    assert all(torch.equal(a, b) for a, b in zip(fed[1:6], fed[6:], strict=True))


def test_prefill_reads_the_prompts_from_an_empty_cache(
    tiny_model: MiniLLM, ids: torch.Tensor, calls: list[tuple[int, ...]]
) -> None:
    speed = measure_prefill(tiny_model, ids, warmup=1, repeats=3)
    assert calls == [(3, 17)] * 4
    assert (speed.tokens, speed.steps) == (51, 1)


def test_units_and_median() -> None:
    speed = Speed(tokens=60, steps=20, timing=Timing(samples_s=(9.0, 2.0, 1.0)))
    assert speed.tokens_per_s == 30
    assert speed.step_ms == 100


def test_bad_input_is_refused(tiny_model: MiniLLM, ids: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="new_tokens=0"):
        measure_decode(tiny_model, ids, new_tokens=0)
    with pytest.raises(ValueError, match="121 tokens exceed max_length=120"):
        measure_decode(tiny_model, ids, new_tokens=104)
    with pytest.raises(ValueError, match="repeats=0"):
        measure_prefill(tiny_model, ids, repeats=0)
