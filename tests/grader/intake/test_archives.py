"""Which archives are opened at all."""

from pathlib import Path

import pytest
from intake_kit import LAB, Answer, Take, folder_of, states

from grader.course import Course


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"PK" * 5000, b"\x1f\x8b", b"no archive"])
def test_what_is_no_archive(own: Course, take: Take, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(content)
    if content == b"\x1f\x8b":
        assert take(path).damage
    else:
        with pytest.raises(ValueError, match=r"x\.zip"):
            take(path)
    with pytest.raises(ValueError, match="there is no folder and no archive"):
        take(tmp_path / "nowhere")


def test_an_exchange_is_known_by_its_folders(answer: Answer, take: Take, tmp_path: Path) -> None:
    """A student may be called inbound; a course in the exchange has an outbound folder too."""
    source = folder_of(
        tmp_path / "s", {f"{name}/{LAB}.ipynb": answer() for name in ("inbound", "x")}
    )
    assert states(take(source)) == {"inbound": "collected", "x": "collected"}
    (source / "outbound").mkdir()
    folder_of(source / "inbound", {f"ada+{LAB}+2026-03-01 12:00:00 UTC/{LAB}.ipynb": answer()})
    (source / "inbound" / f"{LAB}.ipynb").unlink()
    assert states(take(source)) == {"ada": "collected"}
