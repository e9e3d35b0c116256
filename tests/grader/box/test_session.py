"""Questions whose functions stay outside, asked in a real box of code that means harm."""

import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np
import pytest
import torch

from grader.box.boxes import Boxes
from grader.box.session import BoxEnded, Trouble
from grader.box.tier import Tier
from grader.checks.core import load_lab
from grader.checks.outside import Outside
from grader.labs.lab09_generation import outside

TIER = Tier.BUBBLEWRAP if shutil.which("bwrap") else Tier.NAMESPACES
LAB = load_lab("lab09_generation")
NAMES = ("healthy", "heads", "mask", "positions", "forgets")
REACH_PATH = Path(__file__).parents[1] / "reach.py"
REACH = REACH_PATH.read_text()


@pytest.fixture(scope="module")
def boxes() -> Iterator[Boxes]:
    with Boxes(LAB, TIER) as made:
        yield made


def cell(body: str) -> list[dict[str, str]]:
    source = f"import torch\n{REACH}\ndef diagnose(decoder):\n"
    source += textwrap.indent(textwrap.dedent(body).strip(), "    ")
    return [{"id": "diagnose", "source": source}]


def ask(boxes: Boxes, body: str, *questions: dict[str, Any], limit_s: float = 10.0) -> list[Any]:
    """What `diagnose` with this body gives back of the first decoder of each question."""
    with boxes.start() as box:
        assert box.load(boxes.job(cell(body))) == {}
        answers = [box.ask("diagnose", "diagnose", question, limit_s) for question in questions]
    return [answer["error"] or answer["outputs"]["decoder 1"] for answer in answers]


def decoder(function: Any, most_numbers: int = 100) -> dict[str, Any]:
    """A question with a decoder whose functions both are this one."""
    kept = Outside(function, most_numbers)
    return {"cases": [{"vocab_size": 5, "full": kept, "cached": kept}]}


def test_no_fault_can_be_found_beside_the_decoder(boxes: Boxes) -> None:
    [found] = ask(
        boxes, "return list(texts(decoder, *frames()))", LAB.check("diagnose").question(5)
    )
    assert {"vocab_size", "check", "diagnose"} <= set(found)
    assert set(found) & set(NAMES) == set()


def test_the_search_finds_a_fault_where_it_is() -> None:
    inputs = LAB.check("diagnose").inputs(np.random.default_rng(5))
    case = outside.decoders(inputs)["cases"][0]
    found = run_path(str(REACH_PATH))["texts"](case)
    assert found & set(NAMES) == {"healthy", inputs["cases"][0]["fault"]}


def test_calls_are_answered_while_a_question_runs(boxes: Boxes) -> None:
    body = """
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(decoder.full, [torch.full((2,), i) for i in range(64)])
    return [int(value.sum()) for value in results]
    """
    assert ask(boxes, body, decoder(lambda ids: 3 * ids)) == [[6 * i for i in range(64)]]


def test_what_a_function_refuses_is_the_students_to_read(boxes: Boxes) -> None:
    question = LAB.check("diagnose").question(5)
    [message] = ask(boxes, "return decoder.full(torch.tensor([99]))", question)
    assert message.startswith("diagnose raised ValueError: a token is not in 0..")
    assert "line" in message
    [message] = ask(boxes, "return decoder.full(torch.zeros(5000, dtype=int))", question)
    assert "the arguments have 5000 numbers, more than 1024" in message
    [message] = ask(boxes, "return decoder.cached(5)", question)
    assert "TypeError" in message
    [message] = ask(boxes, "return decoder.cached([torch.nn.Linear])", question)
    assert "expected tokens as tensors of integers" in message


def test_a_thread_that_goes_on_calling_disturbs_no_other_question(boxes: Boxes) -> None:
    body = """
    import threading
    def go_on():
        try:
            while True:
                decoder.full(torch.zeros(1))
        except ValueError:
            pass
    threading.Thread(target=go_on, daemon=True).start()
    return float(decoder.cached([torch.ones(1)]).sum())
    """
    question = decoder(lambda value: value if type(value) is torch.Tensor else value[0])
    assert ask(boxes, body, *[question] * 5) == [1.0] * 5


def test_endless_calls_end_with_the_questions_time(boxes: Boxes) -> None:
    body = """
    while True:
        try:
            decoder.full(1)
        except ValueError:
            continue
    """
    with pytest.raises(BoxEnded) as ended:
        ask(boxes, body, decoder(lambda ids: ids), limit_s=0.5)
    assert ended.value.trouble is Trouble.TIMEOUT


FORGED = """
import os
from grader.box.frames import encode
for fd in range(3, 64):
    try:
        os.write(fd, encode({message}))
    except OSError:
        continue
os._exit(0)
"""


@pytest.mark.parametrize(
    "message",
    [
        {"event": "call", "id": 1, "function": 99, "arguments": []},
        {"event": "call", "id": 1, "function": 0, "arguments": "all"},
        {"event": "call"},
    ],
)
def test_a_forged_call_is_tampering(boxes: Boxes, message: dict[str, Any]) -> None:
    with pytest.raises(BoxEnded) as ended:
        ask(boxes, FORGED.format(message=message), decoder(lambda ids: ids))
    assert ended.value.trouble is Trouble.TAMPER
