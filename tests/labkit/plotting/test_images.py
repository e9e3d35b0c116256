"""Captioned images carry what they were given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from labkit.plotting.images import captioned_images


@pytest.fixture(autouse=True)
def canvas_without_a_screen() -> None:
    plt.switch_backend("agg")


def test_images_captions_and_marks_are_drawn_in_order() -> None:
    images = np.arange(5 * 4, dtype=float).reshape(5, 2, 2)
    figure = captioned_images(
        images, list("abcde"), title="Claim", columns=3, marked=[False, True, False, False, False]
    )
    assert not plt.get_fignums()
    assert figure.get_suptitle() == "Claim"
    drawn = [axes for axes in figure.axes if axes.images]
    assert len(figure.axes) == 6
    assert [axes.get_xlabel() for axes in drawn] == list("abcde")
    for axes, image in zip(drawn, images, strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), image)
    thick = [axes.spines["left"].get_linewidth() > 1 for axes in drawn]
    assert thick == [False, True, False, False, False]


def test_longer_captions_get_a_taller_figure() -> None:
    images = np.ones((1, 2, 2))
    heights = [
        captioned_images(images, [caption], title="Claim").get_figheight()
        for caption in ("a", "a\nb\nc")
    ]
    assert heights[1] > heights[0]


@pytest.mark.parametrize(
    ("shape", "captions", "options", "message"),
    [
        ((0, 2, 2), [], {}, "expected"),
        ((2, 2), ["a", "b"], {}, "expected"),
        ((2, 2, 2), ["a"], {}, "1 captions"),
        ((2, 2, 2), ["a", "b"], {"marked": [True]}, "1 marks"),
        ((1, 2, 2), ["a"], {"columns": 0}, "a column or more"),
        ((1, 2, 2), ["a"], {"title": " "}, "give a title"),
    ],
)
def test_wrong_input_is_refused(shape, captions, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        captioned_images(np.zeros(shape), captions, **{"title": "Claim", **options})
