"""Whatever a recipe measured, it is written in one form: that of the committed files."""

import json
from pathlib import Path

import pytest

from grader.course import Course, find_course
from grader.labs import envelope

MADE_BY_THE_WRITER = ("hardware", "commit", "command")


@pytest.mark.parametrize("lab", find_course().labs())
def test_written_again_it_is_the_committed_file(
    real_course: Course, lab: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = real_course.source(lab).with_name("envelope.json")
    content = json.loads(committed.read_text(encoding="utf-8"))
    monkeypatch.setattr(envelope, "hardware", lambda: content["hardware"])
    monkeypatch.setattr(envelope, "current_commit", lambda: content["commit"])
    results = {name: value for name, value in content.items() if name not in MADE_BY_THE_WRITER}
    path = tmp_path / "new" / "envelope.json"
    envelope.write(path, lab, results)
    assert path.read_bytes() == committed.read_bytes()
