"""CSV that no spreadsheet runs: text is neutralised, numbers stay numbers."""

import csv
import io
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence

BYTE_ORDER_MARK = "\ufeff"
FORMULA_STARTS = "=+-@\N{MINUS SIGN}"
QUOTES = "\"'`\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}"
UNSEEN = "ZC"  # Unicode's separators and control, format or unassigned characters
SEPARATOR = re.compile(r"(?<=;)")
DECIMALS, POINT_DECIMALS = 6, 2
TEN_TO_THE = 1e15

Cell = str | float | None


def as_csv(rows: Iterable[Sequence[Cell]], *, decimals: int = DECIMALS) -> str:
    """Write rows; `str` is text and neutralised, a number is a number, None an empty cell."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for row in rows:
        writer.writerow([_cell(cell, decimals) for cell in row])
    return buffer.getvalue()


def _cell(cell: Cell, decimals: int) -> str:
    if cell is None:
        return ""
    return neutral(cell) if isinstance(cell, str) else number(cell, decimals)


def neutral(text: str) -> str:
    """Put an apostrophe before what a spreadsheet may take for a formula, and make it one line.

    OWASP: CSV injection. A formula begins with = + - @ or their wide forms, also after blanks,
    quotes and characters one does not see, and after a semicolon: where that is the separator,
    it begins a cell. A hyphen alone is none; it is Moodle's word for no grade.
    """
    if text == "-":
        return text
    line = "".join(" " if unicodedata.category(c) == "Cc" else c for c in text)
    parts = SEPARATOR.split(line)
    return "".join(f"'{part}" if _is_formula(part) else part for part in parts)


def _is_formula(text: str) -> bool:
    for character in text:
        if character in QUOTES or unicodedata.category(character)[0] in UNSEEN:
            continue
        return unicodedata.normalize("NFKC", character)[0] in FORMULA_STARTS
    return False


def number(value: float, decimals: int = DECIMALS) -> str:
    """A number without exponent, thousands or needless zeros; ValueError if it is not finite."""
    if not math.isfinite(value) or abs(value) >= TEN_TO_THE:
        raise ValueError(f"{value} is not a score: it must be finite and below {TEN_TO_THE:g}")
    text = f"{value:.{decimals}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def as_points(value: float) -> str:
    """Points as pages and learning platforms show them."""
    return number(value, POINT_DECIMALS)
