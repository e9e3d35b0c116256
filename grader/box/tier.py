"""Which kind of sandbox there is, found by running one, and what to say when there is none."""

from dataclasses import dataclass
from enum import StrEnum

from grader.checks.core import Lab


class Tier(StrEnum):
    """How a submission was held; recorded in every result. Strongest first."""

    BUBBLEWRAP = "bubblewrap"
    NAMESPACES = "namespaces"
    CONTAINER = "container"
    RLIMITS = "rlimits"

    def holds_as_well_as(self, other: "Tier") -> bool:
        order = list(Tier)
        return order.index(self) <= order.index(other)


class NoSandboxError(RuntimeError):
    """No box of the wanted tier can be started here; the message says what to install."""


INSTALL = (
    "Grading runs students' code and needs a sandbox: install bubblewrap (Debian, Ubuntu: "
    "`apt install bubblewrap`; Fedora: `dnf install bubblewrap`). In a container it needs user "
    "namespaces or root. `--tier namespaces` needs the kernel alone, `--tier container` Docker or "
    "Podman. For code you trust, `--tier rlimits` runs it without isolation. The tier is recorded "
    "in every result."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one submission may use; `Meter` counts the seconds."""

    memory_bytes: int
    wall_s: float
    question_s: float
    cell_s: float = 20.0
    start_s: float = 60.0
    output_bytes: int = 8 * 2**20
    scratch_bytes: int = 64 * 2**20
    processes: int = 128

    @classmethod
    def of(cls, lab: Lab) -> "Limits":
        """The limits that a lab sets, and the usual ones."""
        return cls(
            memory_bytes=lab.memory_bytes,
            wall_s=lab.time_limit_s,
            question_s=lab.question_limit_s,
        )

    def rlimits(self) -> dict[str, int]:
        """Limits of the process itself; memory is watched from outside, this is the backstop."""
        return {
            "AS": self.memory_bytes + 4 * 2**30,
            "CPU": int(self.wall_s) + 1,
            "FSIZE": self.scratch_bytes,
            "NOFILE": 256,
            "NPROC": self.processes,
            "CORE": 0,
        }
