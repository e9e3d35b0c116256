"""Measured results survive the way to disk, and damage to them is named."""

from pathlib import Path

import pytest
import torch

from labkit.runtime import records
from labkit.runtime.errors import CorruptFileError


def _record(value: float) -> records.Record:
    return records.Record(
        metric="decode", value=value, unit="tok/s", spread=0.5, seeds=(0, 1, 2), extra={"B": 8}
    )


def test_hardware_names_this_machine() -> None:
    found = records.hardware()
    assert found["torch"] == torch.__version__
    assert found["cores"]
    assert found["cpu"]


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "results" / "decode.jsonl"
    written = [_record(31.0), _record(44.5)]
    for record in written:
        records.append_record(path, record)
    assert records.load_records(path) == written
    assert written[0].hardware == records.hardware()


@pytest.mark.parametrize("line", ["{", "[]", '{"metric": "x"}', '"text"'])
def test_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    records.append_record(path, _record(1.0))
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(CorruptFileError, match=r"rows\.jsonl, line 2"):
        records.load_records(path)


def test_no_commit_outside_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert records.current_commit() == ""


def test_records_of_the_checkout_are_found_by_name() -> None:
    found = records.committed("peft_methods")
    assert {"peft_quality", "peft_memory"} <= {record.metric for record in found}
    with pytest.raises(FileNotFoundError, match="run this in a checkout of the course"):
        records.committed("no-such")
