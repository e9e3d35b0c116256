"""Timelines: every piece is drawn where it lies, workers from the top, kinds told apart."""

import pytest

from labkit.plotting.timeline import Piece, timeline

KINDS = ["forward", "backward"]
LABELS = {"title": "It idles", "x_label": "time (units)"}


def test_pieces_lie_where_they_are_and_rows_from_the_top() -> None:
    rows = {"0": [Piece(0, 1, "a", 0), Piece(3, 5, "b", 1)], "1": [Piece(1, 2, "c", 0)]}
    [axes] = timeline(rows, kinds=KINDS, **LABELS).axes
    bars = [(bar.get_x(), bar.get_width(), round(bar.get_center()[1])) for bar in axes.patches]
    assert bars == [(0, 1, 0), (3, 2, 0), (1, 1, 1)]
    assert [text.get_text() for text in axes.texts] == ["a", "b", "c"]
    assert axes.yaxis_inverted()
    shades = [bar.get_facecolor() for bar in axes.patches]
    assert shades[0] == shades[2] != shades[1]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == KINDS


@pytest.mark.parametrize(
    ("piece", "sentence"),
    [(Piece(2, 2, "", 0), "must end after it starts"), (Piece(0, 1, "", 2), "be one of")],
)
def test_a_piece_without_length_or_kind_is_refused(piece: Piece, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        timeline({"0": [piece]}, kinds=KINDS, **LABELS)


def test_nothing_is_no_timeline() -> None:
    with pytest.raises(ValueError, match="have no pieces"):
        timeline({"0": []}, kinds=KINDS, **LABELS)
