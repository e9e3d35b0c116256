"""Bytes on the wire against what a collective must send."""

import sys

import pytest
import torch
import torch.distributed as dist

from labkit.training.parallel import collectives, wire
from labkit.training.parallel.collectives import Group

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's tcp_info")
NUMEL = 300_000


def sent_by(name: str) -> int:
    group, tensor = Group.world(), torch.ones(NUMEL)
    dist.barrier()
    before = wire.sent_bytes()
    if name == "ring":
        collectives.all_reduce(tensor, group)
    elif name == "gloo":
        dist.all_reduce(tensor)
    sent = wire.sent_bytes() - before
    dist.barrier()
    return sent


def test_the_kernel_counts_what_the_formula_says(on_ranks) -> None:
    expected = collectives.all_reduce_bytes(4 * NUMEL, 3)
    for name in ("ring", "gloo"):
        for sent in on_ranks(3, sent_by, name):
            assert expected <= sent < 1.01 * expected
    assert max(on_ranks(3, sent_by, "nothing")) < 1000
