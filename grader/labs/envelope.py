"""The normal results of a lab's last run: the file that a learner's own curve is drawn over."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labkit.runtime.records import current_commit, hardware


def write(path: Path, lab: str, results: Mapping[str, Any]) -> None:
    """Write what a lab's `recipe.py` measured, then where and how it was made.

    Args:
        path: `envelope.json` in the lab's folder of `solutions/`.
        lab: The lab's folder in `grader/labs`.
        results: "metric", "unit", "runs" (one row of numbers a run) and what tells the rows and
            their columns apart, in the order in which it is to be read.
    """
    envelope = {
        **results,
        "hardware": hardware(),
        "commit": current_commit(),
        "command": f"python -m grader.labs.{lab}.recipe",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(envelope, indent=1) + "\n")
