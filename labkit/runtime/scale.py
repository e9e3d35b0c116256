"""The course's one dial: the same notebook at "smoke", "cpu" and "gpu" size."""

from typing import TypeVar

SCALES = ("smoke", "cpu", "gpu")
T = TypeVar("T")


def pick(scale: str, *, smoke: T, cpu: T, gpu: T) -> T:
    """The value that belongs to `scale`.

    Raises:
        ValueError: `scale` is none of "smoke", "cpu", "gpu".
    """
    values = dict(zip(SCALES, (smoke, cpu, gpu), strict=True))
    if scale not in values:
        raise ValueError(f"scale={scale!r} is unknown: use one of {list(SCALES)}")
    return values[scale]
