"""The process inside the sandbox: run the setup and solution cells, then serve calls.

Whatever the student's code does to this process, the only thing that leaves it is bytes which the
grader outside compares with values that never were in here.
"""

import ast
import linecache
import os
import sys
import types
from typing import Any

from grader.box.calls import Caller
from grader.box.frames import MAX_FRAME_BYTES, MAX_TEXT_BYTES
from grader.box.wire import Channel, ClosedError
from grader.checks.explain import explain


def serve(channel: Channel, drives: dict[str, Any]) -> None:
    """Run the job's cells, then answer questions until the other side is gone."""
    first = os.getpid()
    try:
        job = channel.receive(most_text=MAX_FRAME_BYTES)
        namespace, errors = _run_cells(channel, job["cells"])
        _end_a_fork(first)
        channel.send({"event": "loaded", "errors": errors})
        caller = Caller(channel)
        while True:
            question = channel.receive(most_text=MAX_FRAME_BYTES, call=caller.call)
            answer = {"event": "answer", "id": question["id"]}
            try:
                with caller.question():
                    answer |= _answer(question, namespace, drives)
                _end_a_fork(first)
                channel.send(answer, most_text=MAX_TEXT_BYTES)
            except ClosedError:
                raise
            except BaseException as error:  # nothing was sent: it could not be described
                channel.send(
                    answer | {"error": explain(question["symbol"], error), "outputs": None}
                )
    except ClosedError:
        os._exit(0)


def _end_a_fork(first: int) -> None:
    """A copy of the process that came out of an answer as well has nothing to say."""
    if os.getpid() != first:
        os._exit(0)


def _run_cells(
    channel: Channel, cells: list[dict[str, str]]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Run the cells in order in one namespace, reporting each before it starts."""
    module = types.ModuleType("__main__")
    module.__dict__["get_ipython"] = lambda: None
    sys.modules["__main__"] = module
    errors: dict[str, str] = {}
    for cell in cells:
        channel.send({"event": "cell", "id": cell["id"]})
        if message := _run_cell(cell, module.__dict__):
            errors[cell["id"]] = message
    return module.__dict__, errors


def _run_cell(cell: dict[str, str], namespace: dict[str, Any]) -> str:
    """Run one cell; return what went wrong, or an empty string."""
    name = f"<cell {cell['id']}>"
    text = cell["source"]
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    try:
        tree = ast.parse(_plain_python(text), name)
        exec(compile(tree, name, "exec", dont_inherit=True), namespace)
    except SyntaxError as error:
        return f"the cell is not valid Python: {error.msg} at line {error.lineno}."
    except BaseException as error:
        return explain("the cell", error)
    return ""


def _plain_python(text: str) -> str:
    """Blank out IPython's `%magic` and `!shell` lines, which have no place in an answer."""
    lines = text.split("\n")
    return "\n".join("pass" if line[:1] in ("%", "!") else line for line in lines)


def _answer(
    question: dict[str, Any], namespace: dict[str, Any], drives: dict[str, Any]
) -> dict[str, Any]:
    """Call the student's implementation through the drive and describe what came."""
    symbol = question["symbol"]
    if symbol not in namespace:
        return {"error": f"{symbol} is not defined.", "outputs": None}
    try:
        outputs = drives[question["check"]](namespace[symbol], question["inputs"])
    except BaseException as error:
        return {"error": explain(symbol, error), "outputs": None}
    return {"error": "", "outputs": outputs}
