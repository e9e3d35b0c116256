"""What of lab 12's questions stays outside the box: the servers that are to be diagnosed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from grader.checks.outside import Outside

Arrays = dict[str, Any]
Factors = tuple[Tensor, Tensor, float]  # A, B and the scaling
MOST_NUMBERS = 2**14
BASE = "__base__"
_NO_SCALING, _STALE, _LEAKS, _LATE = 1, 2, 3, 4


def servers(inputs: Arrays) -> Arrays:
    """Each case's server as a function of a script, with its width."""
    return {"cases": [_case(**case) for case in inputs["cases"]]}


def _case(fault: int, width: int) -> Arrays:
    """0 is healthy, 1 to 4 have one fault each."""
    return {"width": width, "server": Outside(partial(_serve, fault, width), MOST_NUMBERS)}


@dataclass
class _Asked:
    """A request: the weights it was accepted for, and where the server looks for its answer."""

    name: str
    uid: int
    factors: Factors | None
    x: Tensor


@dataclass
class _Server:
    """A model that repeats its input, under adapters.

    Attributes:
        mounted: uid and factors by name.
        waiting: asked since the last batch.
        remembered: answers by the key and the tokens they were computed for.
    """

    fault: int
    mounted: dict[str, tuple[int, Factors]] = field(default_factory=dict)
    waiting: list[_Asked] = field(default_factory=list)
    remembered: dict[tuple[Any, bytes], Tensor] = field(default_factory=dict)
    answers: list[Tensor] = field(default_factory=list)
    mounts: int = 0

    def mount(self, name: str, A: Tensor, B: Tensor, alpha: float) -> None:
        self.mounts += 1
        scaling = 1.0 if self.fault == _NO_SCALING else alpha / len(A)
        self.mounted[name] = self.mounts, (A, B, scaling)

    def unmount(self, name: str) -> None:
        del self.mounted[name]

    def ask(self, name: str, x: Tensor) -> None:
        uid, factors = (0, None) if name == BASE else self.mounted[name]
        self.waiting.append(_Asked(name, uid, factors, x))

    def run(self) -> None:
        """Answer all that wait, as one batch of all their rows."""
        if not self.waiting:
            return
        batch, self.waiting = self.waiting, []
        if self.fault == _LATE:
            for asked in batch:
                _, asked.factors = self.mounted.get(asked.name, (0, None))
        x = torch.cat([asked.x for asked in batch])
        owners = torch.arange(len(batch)).repeat_interleave(
            torch.tensor([len(asked.x) for asked in batch])
        )
        y = x.clone()
        for uid in sorted({asked.uid for asked in batch if asked.factors is not None}):
            own = [n for n, asked in enumerate(batch) if asked.uid == uid]
            rows = torch.isin(owners, torch.tensor(own)).nonzero().flatten()
            if self.fault == _LEAKS:
                rows = torch.arange(int(rows[0]), int(rows[-1]) + 1)
            factors = batch[own[0]].factors
            assert factors is not None
            A, B, scaling = factors
            y[rows] += scaling * (x[rows] @ A.T @ B.T)
        for asked, answer in zip(batch, y.split([len(a.x) for a in batch]), strict=True):
            owner = asked.name if self.fault == _STALE else asked.uid
            key = owner, asked.x.numpy().tobytes()
            self.answers.append(self.remembered.setdefault(key, answer).clone())


@torch.no_grad()
def _serve(fault: int, width: int, script: Any) -> list[Tensor]:
    """The answers to a script's requests, (T, D) each, in their order."""
    server = _Server(fault)
    if type(script) not in (list, tuple):
        raise ValueError("expected a script: a list of steps")
    for number, step in enumerate(script):
        try:
            _take(server, width, step)
        except ValueError as error:
            raise ValueError(f"step {number} of the script: {error}") from None
    server.run()
    return server.answers


def _take(server: _Server, width: int, step: Any) -> None:
    kind, *arguments = step if type(step) in (list, tuple) and step else (None,)
    if kind == "run" and not arguments:
        server.run()
    elif kind == "mount" and len(arguments) == 4:
        name, A, B, alpha = arguments
        if _name(name) == BASE:
            raise ValueError(f"{BASE} is always there, and cannot be mounted")
        A, B = _table(A, "A"), _table(B, "B")
        if A.shape[1] != width or B.shape != (width, len(A)) or not len(A):
            shapes = f"{tuple(A.shape)} and {tuple(B.shape)}"
            raise ValueError(f"A and B should be (R, {width}) and ({width}, R), got {shapes}")
        if type(alpha) not in (int, float) or not alpha > 0:
            raise ValueError("alpha should be a number above 0")
        server.mount(name, A, B, float(alpha))
    elif kind in ("unmount", "ask") and len(arguments) == 1 + (kind == "ask"):
        name = _name(arguments[0])
        if name not in server.mounted and (name != BASE or kind == "unmount"):
            raise ValueError(f"nothing is mounted under the name {name!r}")
        if kind == "unmount":
            server.unmount(name)
            return
        x = _table(arguments[1], "x")
        if x.shape[1] != width or not len(x):
            raise ValueError(f"x should be (T, {width}) with a token or more: {tuple(x.shape)}")
        server.ask(name, x)
    else:
        raise ValueError(
            'steps are ("mount", name, A, B, alpha), ("unmount", name), ("ask", name, x), ("run",)'
        )


def _name(name: Any) -> str:
    if type(name) is not str or not 0 < len(name) <= 64:
        raise ValueError("a name is a string of 1 to 64 characters")
    return name


def _table(value: Any, name: str) -> Tensor:
    if type(value) is not Tensor or value.ndim != 2 or value.dtype is not torch.float32:
        raise ValueError(f"{name}: expected a float32 tensor of 2 dimensions")
    if not value.isfinite().all():
        raise ValueError(f"{name}: expected finite numbers")
    table: Tensor = value.contiguous()
    return table


HAND_OVER: dict[str, Callable[[Arrays], Arrays]] = {"diagnose": servers}
