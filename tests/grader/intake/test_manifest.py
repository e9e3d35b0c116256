"""What is written of a collecting, and when nothing is."""

import hashlib
import json
from datetime import UTC, datetime, timedelta

from intake_kit import FIRST, LAB, Answer, Make, Take

from grader.course import Course
from grader.intake.manifest import write_manifest


def test_hashes_are_of_what_was_handed_in(answer: Answer, zipped: Make, take: Take) -> None:
    files = ((f"ada/{LAB}/final.ipynb", answer()), (f"ada/{LAB}/x.csv", b"1"))
    (ada,) = take(zipped(*files)).submissions
    digests = {file.source: file.sha256 for file in ada.taken}
    assert digests == {
        f"ada/{LAB}/final.ipynb": hashlib.sha256(answer()).hexdigest(),
        f"ada/{LAB}/x.csv": hashlib.sha256(b"1").hexdigest(),
    }
    assert [file.bytes for file in ada.taken] == [len(answer()), 1]


def test_what_says_the_same_is_written_once(
    own: Course, answer: Answer, zipped: Make, take: Take
) -> None:
    """A line in a crontab collects every ten minutes."""
    path = zipped((f"ada/{LAB}.ipynb", answer()))
    written = [write_manifest(own, take(path, received=FIRST)) for _ in range(4)]
    assert written[0] != written[1] == written[2] == written[3]
    later = write_manifest(own, take(path, received=FIRST + timedelta(days=1)))
    assert later not in written
    later.write_text("[damaged")
    assert write_manifest(own, take(path, received=FIRST)) not in (*written, later)


def test_it_is_json_in_ascii(own: Course, zipped: Make, take: Take) -> None:
    path = write_manifest(own, take(zipped(("\u738b\u202e/x.py", b""))))
    content = json.loads(path.read_bytes().decode("ascii"))
    assert content["schema"] == 1
    assert datetime.fromisoformat(content["collected"]).tzinfo == UTC
    assert content["limits"]["file_bytes"] == 20 * 2**20
