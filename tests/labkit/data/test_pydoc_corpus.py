"""The documentation corpus: known functions, clean texts, a split that leaks nothing."""

import inspect
import json
import os.path
import random
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.data import doc_text, pydoc_corpus
from labkit.data.pydoc_corpus import FunctionDoc


@pytest.fixture(scope="module")
def corpus() -> dict[str, FunctionDoc]:
    return {function.name: function for function in pydoc_corpus.functions()}


def test_known_functions_are_filed_under_the_names_people_use(
    corpus: dict[str, FunctionDoc],
) -> None:
    assert corpus["os.path.join"].signature == "os.path.join(a, *p)"
    assert corpus["str.split"].signature == "str.split(sep=None, maxsplit=-1)"
    assert corpus["math.sqrt"].summary == "Return the square root of x."
    assert corpus["json.JSONDecoder.decode"].signature.startswith("json.JSONDecoder.decode(s")
    assert corpus["random.randint"].signature == "random.randint(a, b)"
    assert corpus["pathlib.PurePath.name"].signature == "pathlib.PurePath.name"
    expected = {"os.listdir", "len", "list.append", "itertools.chain", "collections.deque.append",
                "asyncio.sleep", "unittest.TestCase.assertEqual", "os.path.exists", "re.sub",
                "decimal.Decimal.quantize", "collections.abc.Mapping.get"}  # fmt: skip
    assert expected <= corpus.keys()


def test_texts_equal_inspects(corpus: dict[str, FunctionDoc]) -> None:
    for value, name in [
        (json.dumps, "json.dumps"),
        (os.path.commonpath, "os.path.commonpath"),
        (str.partition, "str.partition"),
        (random.choices, "random.choices"),
    ]:
        assert corpus[name].text == inspect.getdoc(value)


def test_every_entry_is_clean(corpus: dict[str, FunctionDoc]) -> None:
    assert len(corpus) > 4000
    assert list(corpus) == sorted(corpus)
    for function in corpus.values():
        assert function.signature.startswith(function.name)
        assert "\n" not in function.signature + function.summary
        assert function.summary[-1] in ".!?"
        assert len(function.summary) < 400
        assert function.text == function.text.strip()
        assert not any(part.startswith("_") for part in function.name.split("."))


def test_reading_runs_no_package_code_and_is_the_same_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "boom").mkdir()
    (tmp_path / "boom" / "__init__.py").write_text("from .inner import f\nraise SystemExit(3)\n")
    (tmp_path / "boom" / "inner.py").write_text('def f(a):\n    """Give back one more."""\n')
    program = (
        "from labkit.data.pydoc_corpus import functions;"
        "print([(f.name, f.signature, f.summary) for f in functions(('boom', 'heapq'))])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONPATH": f"{tmp_path}:{Path.cwd()}", "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert outputs.pop().startswith("[('boom.f', 'boom.f(a)', 'Give back one more.'), ('heapq.")


def test_third_party_packages_are_read_through_their_reexports() -> None:
    names = {function.name for function in pydoc_corpus.functions(("jinja2",))}
    assert {"jinja2.Environment.from_string", "jinja2.Template.render"} <= names


@pytest.mark.parametrize("package", ["no_such_package", "not.a.name", ""])
def test_a_missing_package_is_named(package: str) -> None:
    with pytest.raises(ValueError, match=f"package '{package}' is not installed"):
        pydoc_corpus.functions((package,))


def test_split_leaks_no_name_and_no_answer(corpus: dict[str, FunctionDoc]) -> None:
    train, held_out = pydoc_corpus.split(list(corpus.values()))
    assert sorted(f.name for f in train + held_out) == list(corpus)
    assert 0.08 < len(held_out) / len(corpus) < 0.12
    for key in ("name", "text", "summary"):
        assert not {getattr(f, key) for f in train} & {getattr(f, key) for f in held_out}


def named(name: str, summary: str) -> FunctionDoc:
    return FunctionDoc(name=name, signature=f"{name}()", summary=summary, text=summary)


@given(
    st.dictionaries(st.text(max_size=4), st.sampled_from("abcdefgh"), max_size=30),
    st.floats(0, 1),
    st.randoms(use_true_random=False),
)
def test_split_keeps_groups_whole_in_any_order(
    texts: dict[str, str], share: float, shuffler: random.Random
) -> None:
    functions = [named(name, text) for name, text in texts.items()]
    train, held_out = pydoc_corpus.split(functions, share)
    sides = defaultdict(set)
    for side, members in (("train", train), ("held_out", held_out)):
        for function in members:
            sides[function.summary].add(side)
    assert all(len(side) == 1 for side in sides.values())
    shuffler.shuffle(functions)
    again = pydoc_corpus.split(functions, share)[1]
    assert {f.name for f in again} == {f.name for f in held_out}


def test_a_function_stays_on_its_side_when_others_join(corpus: dict[str, FunctionDoc]) -> None:
    few = [f for f in corpus.values() if f.name.startswith("math.")]
    held_of_few = {f.name for f in pydoc_corpus.split(few)[1]}
    held_of_all = {f.name for f in pydoc_corpus.split(list(corpus.values()))[1]}
    assert held_of_few == {f.name for f in few if f.name in held_of_all}


def test_share_outside_zero_and_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"held_out=1\.5"):
        pydoc_corpus.split([], held_out=1.5)


def test_texts_start_with_the_signature(corpus: dict[str, FunctionDoc]) -> None:
    text = pydoc_corpus.as_text([corpus["math.sqrt"]])
    assert text == ["math.sqrt(x)\n\nReturn the square root of x."]
    topics = pydoc_corpus.topics()
    assert len(topics) > 60
    assert sum(map(len, topics)) > 300_000


@pytest.mark.parametrize(
    ("doc", "expected"),
    [
        ("range(stop) -> range object\nrange(a, b) -> range\n\nGive numbers.", "Give numbers."),
        ("D.clear() -> None.  Remove all items from D.", "Remove all items from D."),
        ("D.keys() -> a view", "Return a view"),
        ("dict() -> new dict\ndict(m) -> one from\n    pairs", "Return new dict"),
        ("pop(k) -> v, remove key and return the\nvalue. More.",
         "Return v, remove key and return the value. More."),
        ("f(a[, b])\n\nDo it.", "Do it."),
        ("Do (it) -> now.", "Do (it) -> now."),
    ],
)  # fmt: skip
def test_call_lines_are_dropped(doc: str, expected: str) -> None:
    assert doc_text.without_call_lines(doc) == expected


def test_summaries_end_with_a_sentence_and_cleaning_keeps_examples() -> None:
    assert doc_text.summary("One thing.  Another\nthing.\n\nMore.") == "One thing. Another thing."
    assert doc_text.summary("Do these:\n\n- a") == "Do these."
    long = f"First {'word ' * 20}end. Second {'word ' * 40}end."
    assert doc_text.summary(long) == long.split(" Second")[0]
    assert doc_text.clean(" a\n\n\n\n    >>> f()  # doctest: +SKIP\n    1  ") == "a\n\n>>> f()\n1"
