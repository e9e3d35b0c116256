"""Ring attention and Ulysses against plain attention in float64, forward and backward."""

import pytest
import torch
from torch import Tensor

from labkit.training.parallel.collectives import Group
from labkit.training.parallel.context_parallel import (
    ring_attention,
    ring_attention_bytes,
    ulysses_attention,
)

B, H, G, Tn, K = 3, 12, 6, 5, 7  # Tn on each rank; G divides by 2 and 3


def drawn(n: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n)
    shapes = ((B, H), (B, G), (B, G), (B, H))  # q, k, v, the output's gradient
    made = [torch.randn(*s, n * Tn, K, generator=generator, dtype=torch.float64) for s in shapes]
    made[0] *= 6.0  # peaked: the running maximum must move
    return [x.to(dtype) for x in made]


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (x.repeat_interleave(H // G, 1) for x in (k, v))
    scores = q @ k.mT / K**0.5
    past = torch.ones(q.shape[2], q.shape[2]).tril().bool()
    return scores.masked_fill(~past, -torch.inf).softmax(-1) @ v


def attended(method: str, dtype: torch.dtype):
    group = Group.world()
    mine = [x.chunk(group.size, 2)[group.index].clone() for x in drawn(group.size, dtype)]
    q, k, v = (x.requires_grad_() for x in mine[:3])
    attention = {"ring": ring_attention, "ulysses": ulysses_attention}[method]
    y = attention(q, k, v, group)
    forward = group.traffic.sent_bytes
    y.backward(mine[3])
    return y.detach(), q.grad, k.grad, v.grad, forward, group.traffic.sent_bytes - forward


CASES = [("ring", 1), ("ring", 2), ("ring", 3), ("ring", 4), ("ulysses", 2), ("ulysses", 3)]


@pytest.mark.parametrize(("method", "n"), CASES)
def test_attention_and_gradients_equal_plain_ones(on_ranks, method: str, n: int) -> None:
    q, k, v, dy = drawn(n, torch.float64)
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    y = plain(q, k, v)
    y.backward(dy)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 2e-5)):
        results = on_ranks(n, attended, method, dtype)
        for place, expected in enumerate((y.detach(), q.grad, k.grad, v.grad)):
            whole = torch.cat([result[place] for result in results], 2).double()
            torch.testing.assert_close(whole, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("n", [2, 3])
def test_bytes_are_the_formulas(on_ranks, n: int) -> None:
    q_bytes, kv_bytes = 8 * B * H * Tn * K, 2 * 8 * B * G * Tn * K
    for *_, forward, backward in on_ranks(n, attended, "ring", torch.float64):
        assert (forward, backward) == ring_attention_bytes(kv_bytes, n)
    for *_, forward, backward in on_ranks(n, attended, "ulysses", torch.float64):
        assert forward == backward == (2 * q_bytes + kv_bytes) * (n - 1) // n


def test_ulysses_needs_as_many_heads_as_ranks() -> None:
    group = Group(ranks=(0, 1, 2, 3), rank=0)
    q, k, v, _ = drawn(1, torch.float32)
    with pytest.raises(ValueError, match="4 ranks must divide num_kv_heads=6"):
        ulysses_attention(q, k, v, group)
