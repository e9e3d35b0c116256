"""The mesh's groups, and methods composed on it against one process."""

import pytest
import torch
import torch.distributed as dist

from labkit.objectives.language_modelling import cross_entropy
from labkit.training.parallel import schedules
from labkit.training.parallel.data_parallel import DataParallel
from labkit.training.parallel.memory_model import Layout
from labkit.training.parallel.mesh import device_mesh
from labkit.training.parallel.pipeline import Pipeline, split, sum_tied_gradients
from labkit.training.parallel.tensor_parallel import shard
from labkit.training.parallel.vocabulary import vocabulary_cross_entropy
from labkit.training.parallel.zero import Zero
from tests.labkit.training.parallel import tiny

COUNT = tiny.BATCH * (tiny.LENGTH - 1)
STEPS = 3


def test_tensor_ranks_are_neighbours() -> None:
    mesh = device_mesh(Layout(data=2, pipeline=3, tensor=2), 7)
    assert mesh.tensor.ranks == (6, 7)
    assert mesh.pipeline.ranks == (7, 9, 11)
    assert mesh.data.ranks == (1, 7)
    with pytest.raises(ValueError, match="rank=12 is not among the layout's 12"):
        device_mesh(Layout(data=2, pipeline=3, tensor=2), 12)


def tensor_and_data():
    mesh = device_mesh(Layout(data=2, tensor=2), dist.get_rank())
    model = shard(tiny.tiny_model(), mesh.tensor)
    parallel = DataParallel(model, mesh.data, bucket_bytes=5000)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for step in range(STEPS):
        optimizer.zero_grad()
        ids = tiny.batch(step).chunk(2)[mesh.data.index]
        loss, count = vocabulary_cross_entropy(model(ids), ids, 97, mesh.tensor)
        (loss / count).backward()
        parallel.finish()
        optimizer.step()
    parallel.close()
    return model(tiny.batch(99)).detach()


def tensor_and_zero():
    mesh = device_mesh(Layout(data=2, tensor=2), dist.get_rank())
    model = shard(tiny.tiny_model(), mesh.tensor)
    sgd = torch.optim.SGD
    zero = Zero(model, list(model.model.layers), mesh.data, lambda ps: sgd(ps, lr=0.2), stage=3)
    for step in range(STEPS):
        ids = tiny.batch(step).chunk(2)[mesh.data.index]
        loss, count = vocabulary_cross_entropy(model(ids), ids, 97, mesh.tensor)
        (loss / count).backward()
        zero.step()
    return model(tiny.batch(99)).detach()


@pytest.mark.parametrize("composed", [tensor_and_data, tensor_and_zero])
def test_tensor_and_data_together_equal_one_process(on_ranks, composed) -> None:
    model = tiny.tiny_model()
    tiny.trained(model, lambda ps: torch.optim.SGD(ps, lr=0.2), STEPS)
    expected = model(tiny.batch(99)).detach()
    results = on_ranks(4, composed)
    for replica in (results[:2], results[2:]):
        torch.testing.assert_close(torch.cat(replica, -1), expected, rtol=1e-4, atol=1e-5)


def part_of_loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits, ids)[0] / COUNT


def pipeline_and_data():
    mesh = device_mesh(Layout(data=2, pipeline=2), dist.get_rank())
    segments = split(tiny.tiny_model(), mesh.pipeline)
    parallel = DataParallel(segments[0], mesh.data, reduction="sum")
    optimizer = torch.optim.SGD(segments[0].parameters(), lr=0.2)
    actions = schedules.one_forward_one_backward(2, 3)[mesh.pipeline.index]
    pipeline = Pipeline(segments, mesh.pipeline)
    for step in range(STEPS):
        optimizer.zero_grad()
        with parallel.no_sync():
            microbatches = tiny.batch(step).chunk(2)[mesh.data.index].chunk(3)
            losses = pipeline.run(actions, microbatches, part_of_loss)
        parallel.reduce_accumulated()
        sum_tied_gradients(segments, mesh.pipeline)
        optimizer.step()
    parallel.close()
    return sum(losses), tiny.values(segments[0])


def test_pipeline_and_data_together_equal_one_process(on_ranks) -> None:
    model = tiny.tiny_model()
    tiny.trained(model, lambda ps: torch.optim.SGD(ps, lr=0.2), STEPS)
    weights = tiny.values(model)
    for rank, (_, ours) in enumerate(on_ranks(4, pipeline_and_data)):
        end = "embed_tokens.weight" if rank % 2 == 0 else "lm_head.weight"
        expected = weights["model.embed_tokens.weight"]
        torch.testing.assert_close(ours[end], expected, rtol=1e-4, atol=1e-5)
