"""Makes boxes for one lab: content and imports once, then a fork for each submission."""

import itertools
import os
import tempfile
import threading
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from grader.box import bubblewrap, container, content
from grader.box.isolation import Depth, Plan
from grader.box.leftovers import temporary_folder
from grader.box.session import BoxEnded, Session
from grader.box.tier import INSTALL, Limits, NoSandboxError, Tier
from grader.box.view import SYSTEM, covered, interpreter
from grader.box.warm import Launched, NoBoxError, Zygote, launch, launch_container
from grader.checks.core import Lab

ALWAYS_MASKED = ("labkit", "grader")
FIRST_UID, UIDS = 60_001, 900
ENVIRONMENT = {
    "HOME": "/tmp",
    "PATH": "/usr/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MPLBACKEND": "agg",
}


class Boxes:
    """A context manager: boxes of one lab on one tier, for use by many threads."""

    def __init__(
        self, lab: Lab, tier: Tier = Tier.BUBBLEWRAP, *, imports: tuple[str, ...] = ()
    ) -> None:
        """Nothing is started yet.

        Args:
            lab: Its limits, and what must not be importable.
            tier: What holds a submission; no other is ever used instead.
            imports: Modules to import once for all boxes.
        """
        self.lab, self.tier = lab, tier
        self.limits = Limits.of(lab)
        self._imports = imports
        self._uids = itertools.count(os.getpid())
        self._lock = threading.Lock()
        self._zygote: Zygote | None = None
        self._root = False

    def __enter__(self) -> "Boxes":
        self._folder = temporary_folder(mode=0o711)
        self._temporary = self._folder.__enter__()
        try:
            self._content = content.build(self.lab, self._temporary / "course")
            (self._temporary / "boxes").mkdir(mode=0o711)
            self._probe()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._zygote is not None:
            self._zygote.close()
        self._zygote = None
        self._folder.__exit__(None, None, None)

    def _probe(self) -> None:
        """Run an empty box; as root first without a user namespace, then with one."""
        reasons = []
        may_be_root = os.geteuid() == 0 and self.tier in (Tier.BUBBLEWRAP, Tier.NAMESPACES)
        for root in (True, False) if may_be_root else (False,):
            self._root = root
            try:
                with self.start() as box:
                    box.load(self.job([]))
                return
            except (BoxEnded, OSError) as error:
                reasons.append(str(error))
                self._drop_zygote()
        raise NoSandboxError(f"no {self.tier} sandbox here ({'; '.join(reasons)}). {INSTALL}")

    def start(self) -> Session:
        """Start a box.

        Raises:
            NoBoxError: None can be made.
        """
        if self.tier is Tier.CONTAINER:
            return self._contained()
        uid = FIRST_UID + next(self._uids) % UIDS if self._root else 0
        limits = self.limits.rlimits()
        zygote = self._running()
        try:
            child = zygote.fork(uid, limits)
        except NoBoxError:  # the process that forks them was killed: once more
            with self._lock:
                if self._zygote is zygote:
                    self._drop_zygote()
            child = self._running().fork(uid, limits)
        return Session(child, self.limits)

    def _contained(self) -> Session:
        """A box in a container of its own, which ends with it."""
        zygote = self._in_container()
        limits = self.limits.rlimits()
        del limits["NPROC"]  # the container's limit counts its processes, this one the user's
        try:
            return Session(zygote.fork(0, limits), self.limits, then=zygote.close)
        except BaseException:
            zygote.close()
            raise

    def _running(self) -> Zygote:
        with self._lock:
            if self._zygote is None:
                self._zygote = self._warm()
            return self._zygote

    def _drop_zygote(self) -> None:
        if self._zygote is not None:
            self._zygote.close()
            self._zygote = None

    def _masked(self) -> tuple[str, ...]:
        return (*ALWAYS_MASKED, *self.lab.forbids)

    def _warm(self) -> Zygote:
        command: list[str] = []
        options: list[str] = []
        path, depth = str(self._content), Depth.BARE
        if self.tier is Tier.BUBBLEWRAP:
            command, options = bubblewrap.arguments(
                self._content, self._masked(), self.limits, ENVIRONMENT, root=self._root
            )
            path, depth = bubblewrap.COURSE, Depth.NESTED
        elif self.tier is Tier.NAMESPACES:
            depth = Depth.OWN_ROOT
        launched = launch(command, options, path, {} if command else ENVIRONMENT)
        return self._zygote_of(launched, depth, path, str(self._temporary / "boxes"))

    def _in_container(self) -> Zygote:
        runs = container.program()
        container.make_image(runs)
        sockets = Path(tempfile.mkdtemp(dir=self._temporary))
        sockets.chmod(0o755)
        (empty := self._temporary / "empty").mkdir(mode=0o755, exist_ok=True)
        command, removal = container.arguments(
            runs, self._content, sockets, empty, self._masked(), self.limits, ENVIRONMENT
        )
        path, seen_as = container.COURSE, container.SOCKETS
        launched = launch_container(command, removal, path, sockets, seen_as, self.limits.start_s)
        return self._zygote_of(launched, Depth.BARE, path, "/tmp")

    def _zygote_of(self, launched: Launched, depth: Depth, path: str, folder: str) -> Zygote:
        plan = Plan(
            depth=depth,
            root=self._root,
            scratch_bytes=self.limits.scratch_bytes,
            read=(*SYSTEM, *interpreter(), path),
            covered=tuple(covered(self._masked())),
            folder=folder,
        )
        drive = f"grader.labs.{self.lab.name}.drive"
        order = {"plan": asdict(plan), "drive": drive, "imports": self._imports}
        return Zygote(launched, order, self.limits.start_s)

    def job(self, cells: list[dict[str, str]]) -> dict[str, object]:
        """The first message to a box: the cells to run."""
        return {"cells": cells}
