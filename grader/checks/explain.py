"""Say in one sentence what a student's code raised. Used in the notebook and in the sandbox."""

import traceback

SHOWN_CHARACTERS = 300


def explain(symbol: str, error: BaseException) -> str:
    """Say what an implementation raised and on which of its own lines."""
    if isinstance(error, NotImplementedError):
        return f"{symbol} is not written yet: replace the line `raise NotImplementedError()`."
    where = ""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if "ipykernel" in frame.filename or frame.filename.startswith("<"):
            line = f": `{frame.line.strip()}`" if frame.line else ""
            where = f", at line {frame.lineno} of the cell{line}"
            break
    text = str(error)
    text = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
    return f"{symbol} raised {type(error).__name__}: {text}{where}."
