"""The process inside the sandbox: run the setup and solution cells, then serve calls.

Whatever the student's code does to this process, the only thing that leaves it is bytes which the
grader outside compares with values that never were in here.
"""

import ast
import importlib
import linecache
import os
import resource
import sys
import traceback
import types
from typing import Any

from grader.box.wire import Channel, ClosedError
from grader.checks.explain import explain

UNPRIVILEGED_GROUP = 65534


def main() -> None:
    """Take a job from the pipe named on the command line and serve it until the pipe closes."""
    read_fd, write_fd, uid = (int(text) for text in sys.argv[1:4])
    channel = Channel(read_fd, write_fd)
    job = channel.receive()
    if uid:
        _drop_to(uid)
    _limit(job["limits"])
    drives = importlib.import_module(job["drive"]).DRIVES
    channel.send({"event": "ready"})
    namespace, errors = _run_cells(channel, job["cells"])
    channel.send({"event": "loaded", "errors": errors})
    try:
        while True:
            question = channel.receive()
            channel.send(
                {"event": "answer", "id": question["id"]} | _answer(question, namespace, drives)
            )
    except ClosedError:
        os._exit(0)


def _drop_to(uid: int) -> None:
    """Give up root for good; a box made by root has no user namespace to hide in."""
    os.setgroups([])
    os.setresgid(UNPRIVILEGED_GROUP, UNPRIVILEGED_GROUP, UNPRIVILEGED_GROUP)
    os.setresuid(uid, uid, uid)


def _limit(limits: dict[str, int]) -> None:
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


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


def serve() -> None:
    """Run `main` and end the process at once, whatever threads the student left running."""
    try:
        main()
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(1)
