"""Loaders: the usual file names and forms, and errors that name file and row."""

import json
from pathlib import Path

import pytest

from labkit.data.files import load_alpaca, load_wikitext2
from labkit.runtime.errors import CorruptFileError

ROW = {"instruction": "Add.", "input": "2 and 3", "output": "5"}


@pytest.mark.parametrize("name", ["valid.txt", "wiki.valid.tokens", "wiki.valid.raw"])
def test_wikitext_is_read_under_its_usual_names(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(" = Valkyria = \n \n naïve <unk> @-@ \n", encoding="utf-8")
    assert load_wikitext2(tmp_path, "valid") == " = Valkyria = \n \n naïve <unk> @-@ \n"


def test_wikitext_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="split='dev' must be one of"):
        load_wikitext2(tmp_path, "dev")
    with pytest.raises(FileNotFoundError, match=r"holds none of test\.txt"):
        load_wikitext2(tmp_path, "test")
    (tmp_path / "test.txt").write_text(" \n")
    with pytest.raises(CorruptFileError, match=r"test\.txt is empty"):
        load_wikitext2(tmp_path, "test")
    (tmp_path / "train.txt").write_bytes(b"ab\xff")
    with pytest.raises(CorruptFileError, match=r"train\.txt is not UTF-8"):
        load_wikitext2(tmp_path, "train")


def test_alpaca_rows_become_chats(tmp_path: Path) -> None:
    rows = [ROW, ROW | {"input": ""}, {"instruction": "Hi.", "output": "Ho."}]
    expected = [("Add.\n\n2 and 3", "5"), ("Add.", "5"), ("Hi.", "Ho.")]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.jsonl").write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    for name in ("a.json", "a.jsonl"):
        chats = load_alpaca(tmp_path / name)
        assert [(user["content"], reply["content"]) for user, reply in chats] == expected
        assert {(user["role"], reply["role"]) for user, reply in chats} == {("user", "assistant")}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": "a"}, "'output' must be a text that is not empty, got None"),
        (ROW | {"instruction": "  "}, "'instruction' must be a text"),
        (ROW | {"input": 7}, "'input' must be a text, got 7"),
        ("text", "str is not an object"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: object, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([ROW, row]))
    with pytest.raises(ValueError, match=rf"a\.json, row 2: {message}"):
        load_alpaca(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '[{"instruction": "a", "outp', r"a\.json is not JSON"),
        ("a.json", '{"instruction": "a"}', r"a\.json holds dict"),
        ("a.json", "[]", r"a\.json holds no rows"),
        ("a.jsonl", json.dumps(ROW) + "\n{", r"a\.jsonl, line 2 is not JSON"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(CorruptFileError, match=message):
        load_alpaca(tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        load_alpaca(tmp_path / "none.json")
