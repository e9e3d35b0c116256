"""Makes boxes for one lab: probes the tier once, builds the content once, starts many."""

import os
import tempfile
from pathlib import Path
from types import TracebackType

from grader.box import content
from grader.box.bubblewrap import command
from grader.box.session import BoxEnded, Session
from grader.box.tier import INSTALL, Limits, NoSandboxError, Tier
from grader.checks.core import Lab

ALWAYS_MASKED = ("labkit", "grader")


class Boxes:
    """A context manager: boxes of one lab on one tier, with the content folder they share."""

    def __init__(self, lab: Lab, tier: Tier = Tier.BUBBLEWRAP) -> None:
        self.lab, self.tier = lab, tier
        self.limits = Limits(
            memory_bytes=lab.memory_bytes,
            wall_s=lab.time_limit_s,
            question_s=lab.question_limit_s,
        )
        self._drop = False

    def __enter__(self) -> "Boxes":
        self._folder = tempfile.TemporaryDirectory(prefix="grader-")
        try:
            self._content = content.build(self.lab, Path(self._folder.name))
            self._probe()
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._folder.cleanup()

    def _probe(self) -> None:
        """Run an empty box; as root first without a user namespace, then with one."""
        reasons = []
        for drop in (True, False) if os.geteuid() == 0 else (False,):
            self._drop = drop and self.tier is Tier.BUBBLEWRAP
            try:
                with self.start() as box:
                    box.load(self.job([]))
                return
            except (BoxEnded, OSError) as error:
                reasons.append(str(error))
        raise NoSandboxError(f"no {self.tier} sandbox here ({'; '.join(reasons)}). {INSTALL}")

    def start(self) -> Session:
        """Start one box."""
        masked = (*ALWAYS_MASKED, *self.lab.forbids)
        how = command(self.tier, self._content, masked, self.limits, drop=self._drop)
        return Session(how, self.limits)

    def job(self, cells: list[dict[str, str]]) -> dict[str, object]:
        """The first message to a box: the cells to run and the limits to set."""
        drive = f"grader.labs.{self.lab.name}.drive"
        return {"cells": cells, "drive": drive, "limits": self.limits.rlimits()}
