"""How a server is set up: limits, times, keys, and where adapters may come from."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingConfig:
    """What the gateway lets in, and for how long.

    Attributes:
        max_waiting: Most texts that wait beside those the backend runs at once; beyond, requests
            are answered 429.
        request_timeout_s: A request that takes longer is ended; None: no limit.
        grace_s: How long requests under way may go on after a shutdown began.
        max_body_bytes: Of a request; larger ones are answered 413.
        api_keys: Of which each request must bring one; empty: none is asked for.
        adapters_root: The folder under which adapters may be loaded while serving; None: none may.
        heartbeat_s: A stream with nothing to say sends a comment that often.
    """

    max_waiting: int = 256
    request_timeout_s: float | None = 600.0
    grace_s: float = 30.0
    max_body_bytes: int = 2**20
    api_keys: tuple[str, ...] = ()
    adapters_root: Path | None = None
    heartbeat_s: float = 15.0

    def __post_init__(self) -> None:
        if self.max_waiting < 0 or self.max_body_bytes < 1 or self.grace_s < 0:
            raise ValueError(
                f"max_waiting={self.max_waiting} and grace_s={self.grace_s} must be at least 0, "
                f"max_body_bytes={self.max_body_bytes} at least 1"
            )
        if self.heartbeat_s <= 0 or (
            self.request_timeout_s is not None and self.request_timeout_s <= 0
        ):
            raise ValueError(
                f"heartbeat_s={self.heartbeat_s} and request_timeout_s={self.request_timeout_s} "
                "must be above 0"
            )
        if "" in self.api_keys:
            raise ValueError("an API key is empty: anybody would have it")
