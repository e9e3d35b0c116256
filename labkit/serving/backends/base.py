"""What the routes ask of whatever makes the texts."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from labkit.serving.schemas.generation import GenerationRequest
from labkit.serving.schemas.others import EmbeddingRequest
from labkit.serving.step_engine import Load
from labkit.serving.trace import Trace

Body = Mapping[str, Any]
ACCEPTED: Final[Body] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A model that requests may name.

    Attributes:
        name: In requests.
        parent: The base of an adapter.
        root: What the name means now: an adapter's name with its version.
        max_length: Of its context, in tokens.
    """

    name: str
    parent: str | None
    root: str
    max_length: int


@runtime_checkable
class Backend(Protocol):
    """Answers requests that have passed the gateway's limits.

    Failures are `ApiError`, `AdapterError` or `ValueError`; anything else is a defect. Cancelling
    a call, or closing a generator, frees all that its request held.
    """

    base_name: str
    max_batch: int

    async def start(self) -> None:
        """Begin to serve; returns when requests may come."""
        ...

    async def close(self) -> None:
        """End, and fail what is under way."""
        ...

    def unready(self) -> str:
        """Why requests cannot be answered now; empty if they can."""
        ...

    def cards(self) -> list[Card]:
        """The models that requests may name, the base first."""
        ...

    def load(self) -> Load:
        """How busy it is."""
        ...

    async def answer(self, request: GenerationRequest, trace: Trace) -> Body:
        """A whole answer in the API's form."""
        ...

    def events(self, request: GenerationRequest, trace: Trace) -> AsyncGenerator[Body, None]:
        """The bodies of a stream's events, after a first one, `ACCEPTED`, that is not sent."""
        ...

    async def embed(self, request: EmbeddingRequest, trace: Trace) -> Body:
        """One vector a text."""
        ...

    async def load_adapter(self, name: str, folder: Path) -> Card:
        """Mount an adapter; if its name is mounted, the name means this one from now on."""
        ...

    async def unload_adapter(self, name: str) -> None:
        """Take an adapter off; its requests go on to their ends."""
        ...
