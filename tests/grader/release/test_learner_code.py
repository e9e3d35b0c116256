"""Learners' code: what is needed stays, nothing else does."""

from pathlib import Path

import pytest

from grader.release.learner_code import imported, modules, names_from, reduced

MODULE = '''"""What it is.

How the instructor runs it.
"""

import json
from pathlib import Path, PurePath

from package import one, other

LIMIT, FACTOR = 3, 2
UNUSED = 4


@one.decorator
def wanted(x: PurePath) -> int:
    """Uses another."""
    return FACTOR * needed(x) + LIMIT


def answer() -> None:
    """Not for learners."""
    print(other, json, Path)


# Why this is so.
def needed(x):
    return x


if __name__ == "__main__":
    answer()
'''
REDUCED = '''"""What it is."""

from pathlib import PurePath

from package import one

LIMIT, FACTOR = 3, 2


@one.decorator
def wanted(x: PurePath) -> int:
    """Uses another."""
    return FACTOR * needed(x) + LIMIT


# Why this is so.
def needed(x):
    return x
'''


def code(text: str) -> dict:
    return {"cells": [{"cell_type": "code", "source": text}]}


def test_only_what_is_needed_stays() -> None:
    assert reduced(MODULE, {"wanted"}) == REDUCED


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="does not define gone"):
        reduced(MODULE, {"wanted", "gone"})


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("from a.b.recipe import x, y as z\nrecipe.w", {"x", "y"}),
        ("from a.b import recipe as r\nr.x(r.y)\nother.z", {"x", "y"}),
        ("from a.c import recipe\nrecipe.x", set()),
        ("%matplotlib inline\nfrom a.b.recipe import x\n!ls", {"x"}),
    ],
)
def test_names_a_notebook_uses(text: str, names: set[str]) -> None:
    assert names_from(code(text), "a.b.recipe") == names


def test_what_a_notebook_may_import() -> None:
    text = "%load_ext grader.a\nimport grader.b as b, os\ndef f():\n    from grader.c import d"
    assert imported(code(text)) == {"grader.b", "os", "grader.c", "grader.c.d"}
    assert imported({"cells": [{"cell_type": "markdown", "source": "import x"}]}) == set()


def test_modules_are_followed_into_functions(tmp_path: Path) -> None:
    package = tmp_path / "grader"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "a.py").write_text("def f():\n    from grader import b\n    import numpy\n")
    (package / "b.py").write_text("import os\n")
    (package / "c.py").write_text("import os\n")
    found = [path.name for path in modules(tmp_path, ["grader.a"])]
    assert found == ["__init__.py", "a.py", "b.py"]
