"""Lines a person should look at are flagged, honest ones are not."""

import pytest

from grader.similarity.review_flags import flags


@pytest.mark.parametrize(
    ("line", "flag"),
    [
        ("ip = get_ipython()", "reaches the kernel"),
        ("shell . ast_transformers.append(t)", "rewrites cells"),
        ("import ctypes", "reaches memory"),
        ("for o in gc.get_objects():", "walks all objects"),
        ("sys.settrace(f)", "traces running code"),
        ("inspect.stack()[1]", "walks the stack"),
        ("sys._getframe(1).f_back", "walks the stack"),
        ("exec(base64.b64decode(s))", "runs text as code"),
        ("s = bytes.fromhex('00')", "decodes text"),
        ("if 'NBGRADER_EXECUTION' in e:", "asks for the grader"),
        ("os.system('ls')", "starts programs"),
        ("from subprocess import run", "starts programs"),
        ("!ls ..", "starts programs"),
        ("%%bash", "starts programs"),
        ("s = socket.socket()", "opens connections"),
        ("import requests", "opens connections"),
    ],
)
def test_a_line_to_look_at_is_flagged(line: str, flag: str) -> None:
    source = f"x = 1\n{line}\n"
    (first,) = [each for each in flags("ada", "cell", source, "") if each.flag == flag]
    assert (first.student, first.cell, first.line, first.text) == ("ada", "cell", 2, line)
    assert list(flags("ada", "cell", source, line)) == []
    assert list(flags("ada", "cell", f"# {line}", "")) == []


@pytest.mark.parametrize(
    "line",
    [
        "model.eval()",
        "pattern = re.compile(r'x')",
        "fast = torch.compile(model)",
        "requests = queue[:2]",
        "a %= b",
        "y = x if x != 0 else 1",
    ],
)
def test_an_honest_line_is_not_flagged(line: str) -> None:
    assert list(flags("ada", "cell", line, "")) == []
