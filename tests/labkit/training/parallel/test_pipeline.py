"""Pipelines run for real against one process: losses, gradients of every segment, bytes."""

import pytest
import torch
from torch import Tensor

from labkit.objectives.language_modelling import cross_entropy
from labkit.training.parallel import schedules
from labkit.training.parallel.collectives import Group, all_reduce_bytes
from labkit.training.parallel.pipeline import Pipeline, pipeline_bytes, split, sum_tied_gradients
from tests.labkit.training.parallel import tiny

M, STEPS, LAYERS = 4, 3, 5
COUNT = tiny.BATCH * (tiny.LENGTH - 1)
SGD = {"lr": 0.2}


def part_of_loss(logits: Tensor, ids: Tensor) -> Tensor:
    return cross_entropy(logits, ids)[0] / COUNT


def schedule(name: str, p: int) -> schedules.Schedule:
    if name == "gpipe":
        return schedules.gpipe(p, M)
    if name == "1f1b":
        return schedules.one_forward_one_backward(p, M)
    return schedules.interleaved(p, M, 2)


def piped(name: str, tied: bool):
    group = Group.world()
    model = tiny.tiny_model(num_layers=LAYERS, tie_embeddings=tied)
    names = {parameter: key for key, parameter in model.named_parameters()}
    segments = split(model, group, 2 if name == "interleaved" else 1)
    pipeline = Pipeline(segments, group)
    mine = [p for segment in segments for p in segment.parameters()]
    optimizer = torch.optim.SGD(mine, **SGD)
    for step in range(STEPS):
        optimizer.zero_grad()
        group.traffic.reset()
        actions = schedule(name, group.size)[group.index]
        losses = pipeline.run(actions, tiny.batch(step).chunk(M), part_of_loss)
        sent = group.traffic.sent_bytes
        sum_tied_gradients(segments, group)
        tied_sent = group.traffic.sent_bytes - sent
        optimizer.step()
    return sum(losses), {names[p]: p.grad for p in mine}, sent, tied_sent


CASES = [(2, "gpipe", True), (2, "1f1b", False), (3, "1f1b", True), (2, "interleaved", True)]


@pytest.mark.parametrize(("p", "name", "tied"), CASES)
def test_training_equals_one_process(on_ranks, p: int, name: str, tied: bool) -> None:
    model = tiny.tiny_model(num_layers=LAYERS, tie_embeddings=tied)
    expected = tiny.trained(model, lambda ps: torch.optim.SGD(ps, **SGD), STEPS)[-1]
    results = on_ranks(p, piped, name, tied)
    seen = set()
    for _, ours, *_ in results:
        seen |= ours.keys()
        for key, gradient in ours.items():
            torch.testing.assert_close(gradient, expected[key], rtol=1e-4, atol=2e-6)
    assert seen == expected.keys()
    assert all(loss == 0 for loss, *_ in results[:-1])
    fresh = tiny.tiny_model(num_layers=LAYERS, tie_embeddings=tied)
    tiny.trained(fresh, lambda ps: torch.optim.SGD(ps, **SGD), STEPS - 1)
    torch.testing.assert_close(
        results[-1][0], tiny.mean_loss(fresh, tiny.batch(STEPS - 1)).detach(), rtol=1e-5, atol=1e-5
    )
    stream = tiny.BATCH // M * tiny.LENGTH * 24 * 4
    stages = p * (2 if name == "interleaved" else 1)
    assert sum(sent for _, _, sent, _ in results) == pipeline_bytes(stream, stages, M)
    assert results[-1][3] == (all_reduce_bytes(97 * 24 * 4, 2) if tied else 0)


def test_refusals() -> None:
    alone, two = Group(ranks=(0,), rank=0), Group(ranks=(0, 1), rank=0)
    with pytest.raises(ValueError, match="4 stages need as many layers, not 3"):
        split(tiny.tiny_model(), two, 2)
    with pytest.raises(ValueError, match="nothing to interleave"):
        split(tiny.tiny_model(), alone, 2)
    with pytest.raises(ValueError, match="sliding window"):
        split(tiny.tiny_model(sliding_window=4), two)
