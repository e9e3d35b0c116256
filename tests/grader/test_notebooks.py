"""A notebook is read or refused with one sentence, whatever its bytes are, in bounded memory."""

import copy
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grader import notebooks
from grader.notebooks import InvalidNotebookError, Notebook, read_notebook, source, write_notebook
from grader.transplant import transplant

RELEASE: Notebook = {
    "nbformat": 4,
    "metadata": {},
    "cells": [
        {
            "cell_type": "code",
            "metadata": {"nbgrader": {"grade_id": "a", "solution": True}},
            "source": "stub",
            "outputs": [],
        }
    ],
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file for all examples: hypothesis and function-scoped fixtures do not mix."""
    return tmp_path_factory.mktemp("notebook") / "x.ipynb"


def with_outputs(text: str) -> bytes:
    """A notebook's bytes with JSON of one's own in an output."""
    start, end = json.dumps(RELEASE).encode().rsplit(b"[]", 1)
    return start + text.encode("utf-8", "surrogatepass") + end


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"\0" * 1000, "not valid JSON"),
        (json.dumps(RELEASE).encode()[:-20], "not valid JSON"),
        (json.dumps(RELEASE).encode("utf-16"), "not UTF-8"),
        (json.dumps(RELEASE).encode() + b"{}", "Extra data"),
        (with_outputs("[NaN]"), "NaN, Infinity"),
        (with_outputs("[-Infinity]"), "NaN, Infinity"),
        (with_outputs("1" * 5000), "thousands of digits"),
        (with_outputs('"\\ud800"'), "half of a character"),
        (with_outputs('"\\uDfff"'), "half of a character"),
        (with_outputs('"\ud800"'), "not UTF-8"),
        (with_outputs("[" * 99 + "]" * 99), "nested too deeply"),
        (with_outputs("[" * 50_000 + "]" * 50_000), "nested too deeply"),
        (b'{"a":' * 50_000, "nested too deeply"),
        (with_outputs("[" + "{}," * 1_000_001 + "{}]"), "brackets: clear its outputs"),
        (b"4", "it says 'None'"),
        (b'{"nbformat": 3, "worksheets": []}', "it says '3'"),
        (b'{"nbformat": 99, "cells": []}', "it says '99'"),
        (b'{"nbformat": true, "cells": []}', "it says 'True'"),
        (b'{"nbformat": "4\\n4", "cells": []}', r"it says '4\\n4'"),
        (b'{"nbformat": [[4]], "cells": []}', "it says 'list'"),
        (b'{"nbformat": 4, "cells": null}', "no list of at most 20000 cells"),
        (
            b'{"nbformat": 4, "cells": [' + b"{}," * 20_000 + b"{}]}",
            "no list of at most 20000 cells",
        ),
    ],
)
def test_what_is_no_notebook_gets_one_sentence(path: Path, content: bytes, sentence: str) -> None:
    path.write_bytes(content)
    with pytest.raises(InvalidNotebookError, match=sentence) as caught:
        read_notebook(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_what_is_odd_but_a_notebook_is_read(path: Path) -> None:
    """A byte order mark, repeated keys, cells and sources of any type, long numbers, emoji."""
    odd = '3, null, [], {"source": 7}, {"source": ["a", 1, "b"]}'
    cells = f'[{odd}, {{"metadata": 1, "source": "\\ud83d\\ude00"}}]'
    text = f'{{"nbformat": 3, "nbformat": 4, "big": {"9" * 4000}, "cells": [], "cells": {cells}}}'
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    found = read_notebook(path)
    assert [source(cell) for cell in found["cells"]] == ["", "ab", "😀"]
    write_notebook(path, found)
    assert read_notebook(path) == found


def test_a_notebook_at_the_limits_is_read(path: Path) -> None:
    path.write_bytes(with_outputs("[" * 90 + "]" * 90))
    assert read_notebook(path)["cells"]


def test_a_huge_file_is_refused_unread(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with path.open("wb") as file:
        file.truncate(500 * 2**20)
    monkeypatch.setattr(notebooks.json, "loads", None)
    started = time.process_time()
    with pytest.raises(InvalidNotebookError, match="has 524288000 bytes, more than 20971520"):
        read_notebook(path)
    assert time.process_time() - started < 0.1
    path.unlink()


def test_a_file_that_grows_after_it_was_looked_at_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.write_bytes(b" " * (notebooks.MAX_NOTEBOOK_BYTES + 1))
    small = os.stat_result((stat.S_IFREG, *[0] * 5, 10, 0, 0, 0))
    fake = SimpleNamespace(open=os.open, fstat=lambda _: small)
    monkeypatch.setattr(notebooks, "os", fake)
    with pytest.raises(InvalidNotebookError, match="has 20971521 bytes"):
        read_notebook(path)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.mkdir(),
        os.mkfifo,
        lambda path: path.symlink_to(__file__),
        lambda path: path.symlink_to("nowhere"),
        lambda path: None,
    ],
    ids=["folder", "pipe", "link", "dangling", "missing"],
)
def test_only_regular_files_are_read(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "x.ipynb"
    make(path)
    with pytest.raises(InvalidNotebookError, match=r"x\.ipynb is not a regular file"):
        read_notebook(path)


@pytest.mark.parametrize("name", ["a\n\x1b[31mb.ipynb", "a\udc80.ipynb", "a\0b.ipynb", "x" * 300])
def test_a_hostile_name_is_printable_in_the_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidNotebookError) as caught:
        read_notebook(tmp_path / name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "outputs",
    ['"ab",' * 4_000_000 + '"c"', "1.5," * 5_000_000 + "1", '{"a":1},' * 999_000 + "1"],
    ids=["strings", "numbers", "objects"],
)
def test_the_worst_notebooks_cost_bounded_memory(path: Path, outputs: str) -> None:
    """In a process of its own whose memory ends at 1 GiB; an honest 20 MB takes as much."""
    path.write_bytes(with_outputs(f"[{outputs}]")[: notebooks.MAX_NOTEBOOK_BYTES])
    code = (
        "import re, resource, sys; from pathlib import Path; from grader import notebooks\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\n"
        "try: notebooks.read_notebook(Path(sys.argv[1]))\n"
        "except notebooks.InvalidNotebookError: pass\n"
        "status = Path('/proc/self/status').read_text()\n"
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) >> 10)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 700


def read(path: Path, content: bytes) -> None:
    """Read and transplant; only the one exception may come out."""
    path.write_bytes(content)
    found, why = None, ""
    try:
        found = read_notebook(path)
    except InvalidNotebookError as error:
        why = str(error)
    assert why.isprintable()
    if found is None:
        return
    made = transplant(RELEASE, found)
    assert len(made.sha256) == 64
    write_notebook(path, made.notebook)
    assert read_notebook(path) == made.notebook


@given(content=st.binary(max_size=300))
def test_arbitrary_bytes(path: Path, content: bytes) -> None:
    read(path, content)


KEYS = (
    *("cells", "source", "metadata", "nbgrader", "grade_id", "solution", "grade", "tags", "id"),
    *("outputs", "output_type", "text", "data", "image/png", "attachments", "cell_type", "points"),
)


def objects() -> st.SearchStrategy[Any]:
    """JSON of every kind, with the keys that readers look at."""
    keys = st.sampled_from(KEYS)
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    leaves |= st.sampled_from(["a", "code", "markdown", 4, "\ud800", 10**4299])
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(keys | st.text(max_size=3), inner, max_size=4)
        ),
        max_leaves=15,
    )


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container of a value with every key in it."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = [(value, key) for key, _ in inner]
    children = [value[key] for _, key in found if isinstance(value[key], dict | list)]
    return found + [place for child in children for place in places(child)]


@settings(max_examples=300)
@given(data=st.data())
def test_a_valid_notebook_with_anything_anywhere(path: Path, data: st.DataObject) -> None:
    notebook = copy.deepcopy(RELEASE)
    notebook["cells"] *= 2
    notebook = json.loads(json.dumps(notebook))
    for _ in range(data.draw(st.integers(1, 4))):
        container, key = data.draw(st.sampled_from(places(notebook)))
        container[key] = data.draw(objects())
    text = json.dumps(notebook, ensure_ascii=data.draw(st.booleans()))
    read(path, text.encode("utf-8", "surrogatepass"))


@settings(max_examples=300)
@given(data=st.data())
def test_a_valid_notebook_with_bytes_changed(path: Path, data: st.DataObject) -> None:
    content = bytearray(json.dumps(RELEASE).encode())
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(content)))
        end = at + data.draw(st.integers(0, 20))
        content[at:end] = data.draw(st.binary(max_size=8))
    read(path, bytes(content))
