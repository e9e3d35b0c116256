"""Data parallelism against one process on the whole batch, and against torch's own."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from labkit.objectives.language_modelling import cross_entropy
from labkit.training.parallel import collectives
from labkit.training.parallel.collectives import Group
from labkit.training.parallel.data_parallel import DataParallel, fill_buckets
from tests.labkit.training.parallel import tiny

SGD = partial(torch.optim.SGD, lr=0.3, momentum=0.9)
BUCKET = 5000


def trained_apart(bucket_bytes: int, steps: int):
    group = Group.world()
    model = tiny.tiny_model()
    with torch.no_grad():
        if group.index:
            model.lm_head.weight.zero_()  # rank 0's values must come here
    parallel = DataParallel(model, group, bucket_bytes=bucket_bytes)
    group.traffic.reset()
    optimizer = SGD(model.parameters())
    history, early = [], []
    for step in range(steps):
        optimizer.zero_grad()
        tiny.mean_loss(model, tiny.batch(step).chunk(group.size)[group.index]).backward()
        early.append(parallel.launched)
        parallel.finish()
        history.append(tiny.gradients(model))
        optimizer.step()
    parallel.close()
    logits = model(tiny.batch(99)).detach()
    return history, logits, group.traffic.sent_bytes, early, len(parallel.buckets)


@pytest.mark.parametrize("n", [2, 3])
def test_training_equals_one_process_on_the_whole_batch(on_ranks, n: int) -> None:
    model = tiny.tiny_model()
    expected = tiny.trained(model, SGD, steps=4)
    size = 4 * sum(p.numel() for p in model.parameters())
    for history, logits, sent, early, buckets in on_ranks(n, trained_apart, BUCKET, 4):
        for ours, oracle in zip(history, expected, strict=True):
            for name, gradient in oracle.items():
                torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(logits, model(tiny.batch(99)).detach(), rtol=1e-5, atol=1e-5)
        assert buckets > 3
        assert early == [buckets] * 4  # all left during backward, none waited for finish
        assert sent == pytest.approx(4 * collectives.all_reduce_bytes(size, n), rel=1e-3)


def test_bytes_are_exact_on_two_ranks(on_ranks) -> None:
    size = 4 * sum(p.numel() for p in tiny.tiny_model().parameters())
    for _, _, sent, _, _ in on_ranks(2, trained_apart, BUCKET, 1):
        assert sent == collectives.all_reduce_bytes(size, 2)


def beside_torch():
    group = Group.world()
    ours, theirs = tiny.tiny_model(), tiny.tiny_model()
    parallel = DataParallel(ours, group, bucket_bytes=BUCKET)
    wrapped = DistributedDataParallel(theirs)
    ids = tiny.batch(3).chunk(group.size)[group.index]
    tiny.mean_loss(ours, ids).backward()
    parallel.finish()
    tiny.mean_loss(wrapped, ids).backward()
    parallel.close()
    return tiny.gradients(ours), tiny.gradients(theirs)


def test_gradients_equal_torchs(on_ranks) -> None:
    for ours, theirs in on_ranks(2, beside_torch):
        for name, gradient in theirs.items():
            torch.testing.assert_close(ours[name], gradient, rtol=1e-5, atol=1e-7)


def accumulated_and_ragged():
    group = Group.world()
    model = tiny.tiny_model()
    model.model.embed_tokens.weight.requires_grad_(False)
    parallel = DataParallel(model, group, bucket_bytes=BUCKET, reduction="sum")
    group.traffic.reset()
    rows = tiny.batch(5).split([5, 7])[group.index].split([2, 3 + 2 * group.index])
    count = tiny.BATCH * (tiny.LENGTH - 1)
    with parallel.no_sync():
        (cross_entropy(model(rows[0]), rows[0])[0] / count).backward()
    silent = group.traffic.sent_bytes
    (cross_entropy(model(rows[1]), rows[1])[0] / count).backward()
    parallel.finish()
    parallel.close()
    return tiny.gradients(model), silent


def test_ragged_parts_accumulated_equal_the_whole(on_ranks) -> None:
    model = tiny.tiny_model()
    model.model.embed_tokens.weight.requires_grad_(False)
    tiny.mean_loss(model, tiny.batch(5)).backward()
    expected = tiny.gradients(model)
    for ours, silent in on_ranks(2, accumulated_and_ragged):
        assert silent == 0
        assert ours.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6)


class Forked(nn.Module):
    """Rank 0 uses the left path, rank 1 the right one; both share the top."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 5), nn.Linear(3, 5)
        self.top = nn.Linear(5, 2)


def unused(mode: str):
    group = Group.world()
    torch.manual_seed(3)
    model = Forked()
    parallel = DataParallel(model, group, bucket_bytes=40, reduction="sum", unused=mode)
    # Where it raises, both take the left: a rank with a gradient more would wait for the other.
    path = model.right if group.index and mode == "zeros" else model.left
    model.top(path(torch.ones(4, 3))).sum().backward()
    try:
        parallel.finish()
    except ValueError as error:
        return str(error)
    finally:
        parallel.close()
    return tiny.gradients(model)


def test_unused_parameters_count_as_zero_where_told(on_ranks) -> None:
    torch.manual_seed(3)
    model = Forked()
    total = sum(model.top(p(torch.ones(4, 3))).sum() for p in (model.left, model.right))
    total.backward()
    for ours in on_ranks(2, unused, "zeros"):
        for name, gradient in tiny.gradients(model).items():
            torch.testing.assert_close(ours[name], gradient)


def test_unused_parameters_are_named(on_ranks) -> None:
    for text in on_ranks(2, unused, "raise"):
        assert "no gradient of right.bias, right.weight" in text


def test_buckets_run_backwards_and_the_last_is_uneven() -> None:
    parameters = [nn.Parameter(torch.zeros(size)) for size in (3, 30, 7, 2)]
    buckets = fill_buckets(parameters, 40)
    assert [b.flat.numel() for b in buckets] == [9, 30, 3]
    assert buckets[0].parameters[0] is parameters[3]


def test_refusals() -> None:
    alone = Group(ranks=(0,), rank=0)
    with pytest.raises(ValueError, match="bucket_bytes=0"):
        fill_buckets([], 0)
    with pytest.raises(ValueError, match="reduction='max'"):
        DataParallel(nn.Linear(2, 3), alone, reduction="max")
    with pytest.raises(ValueError, match="nothing to reduce"):
        DataParallel(nn.Linear(2, 3).requires_grad_(False), alone)
