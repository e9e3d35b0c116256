"""Write constraints.txt: the exact versions in this environment, one resolvable set for everybody.

Left out: this project itself, torch's local build tag (the CPU and the CUDA wheel are both
"2.13.0") and what only a CUDA build of torch brings.
"""

import importlib.metadata
import re
from pathlib import Path

HEADER = "# Written by `make lock`. Install with: pip install -c constraints.txt -e '.[dev]'\n"
SKIPPED = re.compile(r"(llm-engineering-lab|pip|setuptools|triton|cuda-.*|nvidia-.*)$")


def pins() -> list[str]:
    """Return `name==version` lines, sorted, without local version tags."""
    found = {}
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        if not SKIPPED.match(name):
            found[name] = distribution.version.split("+")[0]
    return [f"{name}=={version}" for name, version in sorted(found.items())]


if __name__ == "__main__":
    Path("constraints.txt").write_text(HEADER + "\n".join(pins()) + "\n", encoding="utf-8")
