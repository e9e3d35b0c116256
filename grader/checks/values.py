"""Values a check may exchange: their exact types, how they read in a message, when two are equal.

Nothing here trusts an object's own methods: a value is accepted by `type(value) is ...`, so that a
subclass with its own `__eq__` or `__array__` is reported as what it is instead of being compared.
"""

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

SCALARS = (bool, int, float, str, type(None))
MAX_DEPTH = 8
SHOWN_CHARACTERS = 80
_UNTRUE, _TRUE = "this must hold, and it does not", "this must not hold, and it does"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """|got - expected| <= atol + rtol * |expected|, and why it may differ at all."""

    rtol: float = 0.0
    atol: float = 0.0
    reason: str = "exact"

    def __post_init__(self) -> None:
        if self.rtol < 0 or self.atol < 0:
            raise ValueError(f"rtol={self.rtol} and atol={self.atol} must not be negative")


@dataclass(frozen=True, slots=True)
class Foreign:
    """Stands for an object of a type that does not cross the sandbox's pipe."""

    type_name: str


def type_name(value: object) -> str:
    """The full name of a value's type."""
    if type(value) is Foreign:
        return value.type_name
    return f"{type(value).__module__}.{type(value).__qualname__}"


def is_tensor(value: object) -> bool:
    """True for exactly `torch.Tensor`; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and type(value) is torch.Tensor


def to_numpy(value: Any) -> tuple[np.ndarray, str]:
    """Return an array or tensor as numpy plus its dtype's name; bfloat16 travels as float32."""
    if type(value) is np.ndarray:
        return value, str(value.dtype)
    tensor = value.detach().cpu().resolve_conj().resolve_neg()
    name = str(tensor.dtype).removeprefix("torch.")
    return (tensor.float() if name == "bfloat16" else tensor).numpy(), name


def describe(value: object) -> str:
    """Name a value's type, dtype and shape, never its content beyond a short scalar."""
    if type(value) is np.ndarray or is_tensor(value):
        array, dtype = to_numpy(value)
        kind = "numpy.ndarray" if type(value) is np.ndarray else "torch.Tensor"
        return f"{kind} of {dtype}, shape {tuple(array.shape)}"
    if type(value) is list or type(value) is tuple:
        return f"{type(value).__name__} of {len(value)}"
    if type(value) in SCALARS:
        text = repr(value)
        text = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
        return text if value is None else f"{type(value).__name__} {text}"
    return f"an object of type {type_name(value)}"


def difference(got: object, expected: object, tolerance: Tolerance, depth: int = 0) -> str:
    """Say how `got` differs from `expected`: type, length, dtype, shape, finiteness, then values.

    Returns:
        An empty string when they agree; otherwise a clause such as "expected ..., got ...".
    """
    if type(got) is not type(expected):
        return f"expected {_kind(expected)}, got {describe(got)}"
    if type(expected) in (list, tuple):
        return _sequence_difference(got, expected, tolerance, depth)
    if type(expected) is np.ndarray or is_tensor(expected):
        return _array_difference(got, expected, tolerance)
    if type(expected) is float:
        pair = np.asarray(got, dtype=np.float64), np.asarray(expected, dtype=np.float64)
        return _value_difference(*pair, tolerance)
    if type(expected) is bool:
        return "" if got == expected else _UNTRUE if expected else _TRUE
    if type(expected) in SCALARS:
        return "" if got == expected else f"{describe(got)} is not the right value"
    raise TypeError(f"a check cannot compare {describe(expected)}")


def _kind(expected: object) -> str:
    """Describe the expected value without giving a scalar away."""
    return type(expected).__name__ if type(expected) in SCALARS else describe(expected)


def _sequence_difference(got: Any, expected: Any, tolerance: Tolerance, depth: int) -> str:
    if len(got) != len(expected):
        return f"expected {len(expected)} entries, got {len(got)}"
    if depth >= MAX_DEPTH:
        return f"nested deeper than {MAX_DEPTH} levels"
    for index, (a, b) in enumerate(zip(got, expected, strict=True)):
        if clause := difference(a, b, tolerance, depth + 1):
            return f"entry {index} (counted from 0): {clause}"
    return ""


def _array_difference(got: Any, expected: Any, tolerance: Tolerance) -> str:
    (a, a_dtype), (b, b_dtype) = to_numpy(got), to_numpy(expected)
    if a_dtype != b_dtype:
        return f"expected dtype {b_dtype}, got {a_dtype}"
    if a.shape != b.shape:
        return f"expected shape {tuple(b.shape)}, got {tuple(a.shape)}"
    if a.dtype.kind not in "fciub":
        return f"arrays of {a_dtype} are not accepted"
    if a.dtype.kind in "iub":
        wrong = int(np.count_nonzero(a != b))
        return f"{wrong} of {a.size} entries differ" if wrong else ""
    precision = np.complex128 if a.dtype.kind == "c" else np.float64
    return _value_difference(a.astype(precision), b.astype(precision), tolerance)


def _value_difference(got: np.ndarray, expected: np.ndarray, tolerance: Tolerance) -> str:
    odd = int(np.count_nonzero(np.isfinite(expected) & ~np.isfinite(got)))
    if odd:
        return f"{odd} of {got.size} values are nan or infinite"
    close = np.isclose(got, expected, rtol=tolerance.rtol, atol=tolerance.atol, equal_nan=True)
    if close.all():
        return ""
    finite = np.isfinite(expected) & np.isfinite(got)
    gap = np.abs(got[finite] - expected[finite])
    largest = float(gap.max()) if gap.size else float("inf")
    wrong = (
        f"{int(np.count_nonzero(~close))} of {got.size} values differ"
        if got.ndim
        else "the value differs"
    )
    return f"{wrong}, by up to {largest:.3g} (allowed: {tolerance.reason})"
