"""Nothing of a text is lost in its blanks, and positions say where each token belongs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labkit.data.batch import IGNORE_INDEX
from labkit.data.blank_infilling import infill, stack

M, S, E = 100, 101, 102
SPECIAL = {"mask_id": M, "start_id": S, "end_id": E}


def test_the_example_of_the_papers_figure():
    """x1 .. x6 with [x3] and [x5, x6] cut out, the later span first (figure 2 there)."""
    made = infill([1, 2, 3, 4, 5, 6], [(4, 6), (2, 3)], **SPECIAL)
    assert made.ids == (1, 2, M, 4, M, S, 5, 6, S, 3)
    assert made.targets == (*[IGNORE_INDEX] * 5, 5, 6, E, 3, E)
    assert made.positions == (0, 1, 2, 3, 4, 4, 4, 4, 2, 2)  # the paper counts from 1
    assert made.block_positions == (0, 0, 0, 0, 0, 1, 2, 3, 1, 2)
    assert made.prefix_length == 5


def test_a_dialogue_is_one_span_at_the_end():
    made = infill([7, 8, 9], [(2, 3)], **SPECIAL)
    assert made.ids == (7, 8, M, S, 9)
    assert made.targets[-2:] == (9, E)


@st.composite
def texts(draw):
    tokens = draw(st.lists(st.integers(0, 50), min_size=1, max_size=12))
    edges = draw(st.lists(st.integers(0, len(tokens)), max_size=6, unique=True).map(sorted))
    edges = [0, len(tokens)] if len(edges) < 2 else edges[: len(edges) // 2 * 2]
    spans = list(zip(edges[::2], edges[1::2], strict=True))
    return tokens, draw(st.permutations(spans))


@given(texts())
def test_targets_put_back_at_their_positions_give_the_text(case):
    tokens, spans = case
    made = infill(tokens, spans, **SPECIAL)
    filled = {}
    for target, position in zip(made.targets, made.positions, strict=True):
        if target not in (IGNORE_INDEX, E):
            filled.setdefault(position, []).append(target)
    A = made.prefix_length
    rebuilt = []
    for place, token in enumerate(made.ids[:A]):
        rebuilt += filled[place] if token == M else [token]
    assert rebuilt == tokens
    assert sum(target == E for target in made.targets) == len(spans)
    # Teacher forcing: in part B a place reads what the place before was to say.
    for i in range(A + 1, len(made.ids)):
        if made.ids[i] != S:
            assert made.ids[i] == made.targets[i - 1]


def test_stack():
    rows = [infill([1, 2, 3, 4], [span], **SPECIAL) for span in ((0, 2), (1, 3))]
    batch = stack(rows)
    assert torch.equal(batch.ids, torch.tensor([[M, 3, 4, S, 1, 2], [1, M, 4, S, 2, 3]]))
    assert batch.prefix_lengths.tolist() == [3, 3]
    assert batch.positions[1].tolist() == [0, 1, 2, 1, 1, 1]
    with pytest.raises(ValueError, match="one length"):
        stack([rows[0], infill([1, 2], [(0, 1)], **SPECIAL)])


@pytest.mark.parametrize("spans", [[], [(1, 1)], [(0, 2), (1, 3)], [(2, 5)], [(-1, 1)], [(2, 1)]])
def test_refuses(spans):
    with pytest.raises(ValueError, match="must not be empty, overlap or leave"):
        infill([1, 2, 3, 4], spans, **SPECIAL)
