"""A lab's public checks as plain data, for a copy of the course that learners get.

`write` computes the data and the expected values of the public seed once. `read` makes from them a
`Lab` that checks on that seed as the real one does, and on no other: how its data are made and
which implementation they are compared with is not there.
"""

import json
from dataclasses import asdict, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from grader.box.frames import HEADER, decode, encode
from grader.checks.core import PUBLIC_SEED, Arrays, Check, Lab, hand_over
from grader.checks.values import Tolerance

DEFINITION = "public.json"
VALUES = "public.bin"
CODE = frozenset({"inputs", "drive", "reference", "expect", "hand_over"})
ABSENT = "this copy of the course has the public check's data only; grading has the others"


def write(lab: Lab, folder: Path) -> None:
    """Store a lab's definition, and inputs and expected values of the public seed, in a folder."""
    definition = {item.name: getattr(lab, item.name) for item in fields(lab)}
    definition["checks"] = [_without_code(check) for check in lab.checks]
    text = json.dumps(definition, indent=1, ensure_ascii=False)
    (folder / DEFINITION).write_text(text + "\n", encoding="utf-8")
    values = {check.name: _values(check) for check in lab.checks}
    (folder / VALUES).write_bytes(encode(values))


def _without_code(check: Check) -> dict[str, Any]:
    kept = {item.name: getattr(check, item.name) for item in fields(check) if item.name not in CODE}
    return kept | {"tolerance": asdict(check.tolerance), "hints": dict(check.hints)}


def _values(check: Check) -> dict[str, Arrays]:
    """Inputs and expected values, refused if the stored form does not pass for the real one."""
    inputs = check.inputs(np.random.default_rng(PUBLIC_SEED))
    expected = check.expected(check.inputs(np.random.default_rng(PUBLIC_SEED)))
    values = {"inputs": inputs, "expected": expected}
    verdict = check.verdict(_decoded(encode(values))["expected"], expected)
    if not verdict.ok:
        raise ValueError(f"{check.name} cannot be stored: {verdict.message}")
    return values


def read(folder: Path) -> Lab:
    """The lab that was written to a folder of `grader/labs`.

    Its `drive.py` lies there too, and its `outside.py` if it has one.
    """
    definition = json.loads((folder / DEFINITION).read_text(encoding="utf-8"))
    frame = (folder / VALUES).read_bytes()
    lab = definition["name"]
    plain: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in definition.items()
    }
    checks = tuple(_check(lab, check, frame) for check in definition["checks"])
    return Lab(**plain | {"checks": checks})


def _check(lab: str, plain: dict[str, Any], frame: bytes) -> Check:
    name = plain["name"]

    def inputs(rng: np.random.Generator) -> Arrays:
        """New arrays at every call: an implementation may change what it is given."""
        seed: Any = rng.bit_generator.seed_seq
        if seed.entropy != PUBLIC_SEED:
            raise ValueError(f"{name}: {ABSENT}")
        made: Arrays = _decoded(frame)[name]["inputs"]
        return made

    def expect(_: Arrays) -> Arrays:
        values: Arrays = _decoded(frame)[name]["expected"]
        return values

    def reference() -> Any:
        raise ValueError(f"{name}: {ABSENT}")

    tolerance = Tolerance(**plain["tolerance"])
    return Check(
        **plain | {"tolerance": tolerance},
        inputs=inputs,
        drive=import_module(f"grader.labs.{lab}.drive").DRIVES[name],
        reference=reference,
        expect=expect,
        hand_over=hand_over(lab, name),
    )


def _decoded(frame: bytes) -> dict[str, Any]:
    _, text = HEADER.unpack_from(frame)
    body = frame[HEADER.size :]
    return decode(body[:text], body[text:])
