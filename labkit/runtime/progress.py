"""Progress bars on stderr for people, silence for machines."""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")


def progress(
    iterable: Iterable[T], *, total: int | None = None, desc: str = "", unit: str = "it"
) -> Iterator[T]:
    """Yields from `iterable`, drawing a bar where somebody is likely to look at it."""
    with tqdm(
        iterable,
        total=total,
        desc=desc,
        unit=unit,
        file=sys.stderr,
        disable=is_quiet(),
        leave=False,
    ) as bar:
        yield from bar


def is_quiet() -> bool:
    """True when `CI` is set, or stderr is neither a terminal nor a Jupyter kernel's."""
    if os.environ.get("CI"):
        return True
    in_notebook = type(sys.stderr).__module__.startswith("ipykernel")
    return not (in_notebook or sys.stderr.isatty())
