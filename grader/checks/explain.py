"""Say in one sentence what a student's code raised. Used in the notebook and in the sandbox."""

import sysconfig
import traceback
from pathlib import Path

SHOWN_CHARACTERS = 300
CELLS = ("ipykernel_", "<cell ", "<ipython-input")  # of Jupyter, the sandbox and IPython
_PATHS = sysconfig.get_paths()
NOT_THE_LEARNERS = (
    f"{Path(__file__).parents[1]}/",
    *(f"{_PATHS[name]}/" for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    "<",
)


class ContractError(Exception):
    """What a drive raises about an object it cannot use; its text is shown as it is."""


def explain(symbol: str, error: BaseException) -> str:
    """Say what an implementation raised and on which of its own lines."""
    if isinstance(error, NotImplementedError):
        return f"{symbol} is not written yet: replace the line `raise NotImplementedError()`."
    text = str(error)
    if isinstance(error, EOFError):
        text += " (nobody answers input() here)"
    text = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
    if isinstance(error, ContractError):
        return text if text.endswith(("?", ".")) else f"{text}."
    what = f"{type(error).__name__}: {text}"
    if where := _own_line(error):
        return f"{symbol} raised {what}, at {where}."
    return f"calling {symbol}, or using what it returned, failed with {what}."


def _own_line(error: BaseException) -> str:
    """The innermost line that the learner wrote, or an empty string if none took part."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        in_cell = any(mark in frame.filename for mark in CELLS)
        if in_cell or not frame.filename.startswith(NOT_THE_LEARNERS):
            place = "the cell" if in_cell else Path(frame.filename).name
            line = f": `{frame.line.strip()}`" if frame.line else ""
            return f"line {frame.lineno} of {place}{line}"
    return ""
