"""The mask against its definition pair by pair, what a token can and cannot see, 2-D rotations."""

import pytest
import torch

from labkit.model import prefix_lm
from labkit.model.layers import apply_rope, rope_table


def test_mask_pair_by_pair():
    T, lengths = 7, [0, 1, 4, 7]
    mask = prefix_lm.prefix_mask(torch.tensor(lengths), T)
    assert mask.shape == (4, 1, T, T)
    for b, prefix in enumerate(lengths):
        for i in range(T):
            for j in range(T):
                both_in_prefix = i < prefix and j < prefix
                assert bool(mask[b, 0, i, j]) == (j <= i or both_in_prefix), (b, i, j)


def test_mask_refuses_a_prefix_beyond_the_row():
    for length in (-1, 8):
        with pytest.raises(ValueError, match=r"must lie in \[0, 7\]"):
            prefix_lm.prefix_mask(torch.tensor([3, length]), 7)


def test_without_a_prefix_it_is_the_model(tiny_model, gen):
    ids = torch.randint(97, (2, 9), generator=gen)
    ours = prefix_lm.prefix_logits(tiny_model, ids, torch.tensor([0, 1]))
    torch.testing.assert_close(ours, tiny_model(ids), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("changed", range(9))
def test_what_a_change_reaches(tiny_model, gen, changed):
    """A token of the prefix reaches every place; one after it reaches itself and later ones."""
    prefix = 5
    ids = torch.randint(96, (1, 9), generator=gen)
    other = ids.clone()
    other[0, changed] += 1
    lengths = torch.tensor([prefix])
    a, b = (prefix_lm.prefix_logits(tiny_model, x, lengths) for x in (ids, other))
    moved = ((a - b).abs().amax(-1)[0] > 1e-7).tolist()
    first = 0 if changed < prefix else changed
    assert moved == [place >= first for place in range(9)]


def test_2d_rotation_is_two_rotations_of_half_heads(gen):
    """ChatGLM-6B turns each half of a head by itself; the pairs are the same, only placed apart."""
    B, T, H, K, theta = 2, 5, 3, 8, 50.0
    x = torch.randn(B, T, H, K, generator=gen)
    first, second = torch.randint(9, (2, B, T), generator=gen)
    ours = apply_rope(x, *prefix_lm.rope_table_2d(first, second, K, theta))
    # Pairs (i, i + K/2): the quarters 0 and 2 make the first half-head, 1 and 3 the second.
    q0, q1, q2, q3 = x.chunk(4, dim=-1)
    one = apply_rope(torch.cat([q0, q2], -1), *rope_table(first, K // 2, theta))
    two = apply_rope(torch.cat([q1, q3], -1), *rope_table(second, K // 2, theta))
    theirs = torch.cat([one[..., :2], two[..., :2], one[..., 2:], two[..., 2:]], -1)
    torch.testing.assert_close(ours, theirs)


def test_scores_depend_on_both_differences_alone(gen):
    q, k = torch.randn(2, 1, 1, 1, 8, generator=gen, dtype=torch.float64)

    def score(place, key_place):
        def turned(x, at):
            tables = [torch.tensor([[n]]) for n in at]
            return apply_rope(x, *prefix_lm.rope_table_2d(*tables, 8, 10_000.0))

        return (turned(q, place) * turned(k, key_place)).sum().item()

    base = score((5, 2), (3, 1))
    assert score((9, 7), (7, 6)) == pytest.approx(base, abs=1e-5)
    assert abs(score((6, 2), (3, 1)) - base) > 1e-3
    assert abs(score((5, 3), (3, 1)) - base) > 1e-3


def test_head_width_must_have_two_halves_of_pairs():
    with pytest.raises(ValueError, match="head_width=6"):
        prefix_lm.rope_table_2d(torch.zeros(1, 1).long(), torch.zeros(1, 1).long(), 6, 10.0)


def test_second_position_is_used(tiny_model, gen):
    ids = torch.randint(97, (1, 6), generator=gen)
    lengths, positions = torch.tensor([3]), torch.tensor([[0, 1, 2, 2, 2, 2]])
    logits = [
        prefix_lm.prefix_logits(
            tiny_model, ids, lengths, positions=positions, block_positions=torch.tensor([blocks])
        )
        for blocks in ([0, 0, 0, 1, 2, 3], [0, 0, 0, 1, 1, 1], [4, 4, 4, 5, 6, 7])
    ]
    assert (logits[0] - logits[1]).abs().max() > 1e-4
    torch.testing.assert_close(logits[0], logits[2], rtol=1e-4, atol=1e-5)  # only differences count
