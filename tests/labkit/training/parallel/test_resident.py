"""What a process holds, against tensors of known size."""

import sys

import pytest
import torch

from labkit.training.parallel.resident import measured

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
MIB = 2**20


def kept_and_gone() -> list[torch.Tensor]:
    kept = torch.ones(10 * MIB)
    torch.ones(20 * MIB).sum()
    kept.untyped_storage().resize_(4 * 5 * MIB)
    return [kept]


def test_what_stays_and_the_peak() -> None:
    kept_and_gone()
    with measured() as memory:
        kept = kept_and_gone()
    assert memory.held_bytes == pytest.approx(20 * MIB, abs=2 * MIB)
    assert 116 * MIB <= memory.peak_bytes <= 160 * MIB  # freed memory may be kept by malloc
    del kept
    with measured() as memory:
        pass
    assert abs(memory.held_bytes) < MIB
