"""What `LocalBackend` asks of an engine, and our own engine as one."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from labkit.inference.adapters.errors import UnknownAdapterError
from labkit.inference.constraint import Constraint
from labkit.inference.engine import Engine, Output
from labkit.inference.engine_config import EngineConfig
from labkit.inference.sampling import SamplingConfig
from labkit.model.minillm import MiniLLM
from labkit.model.tokenizer import Tokenizer
from labkit.model.zoo import Loaded
from labkit.serving.embeddings import Embedder
from labkit.serving.scoring import Scored, score
from labkit.serving.step_engine import Load, StepEngine


@runtime_checkable
class LocalEngine(StepEngine, Protocol):
    """Steps, and all else a server needs of a model in this process.

    `mount`, `unmount`, `mounted` and `load` may be called from any thread; the rest only from the
    one that steps.
    """

    tokenizer: Tokenizer
    max_length: int
    vocab_size: int
    max_batch: int

    def score(self, ids: Sequence[int], adapter: str | None, num_top: int) -> Scored:
        """A prompt's own log-probabilities, and the logits after it."""
        ...

    def embed(self, ids: Sequence[int]) -> Float[Tensor, " D"]:
        """The mean of the base's final hidden states, of length 1."""
        ...

    def mount(self, name: str, folder: Path) -> None:
        """Check and load an adapter; its name means it from then on."""
        ...

    def unmount(self, name: str) -> None:
        """Take an adapter off; it goes with its last request."""
        ...

    def mounted(self) -> dict[str, str]:
        """What each name that takes requests means: an adapter's name with its version."""
        ...

    def load(self) -> Load:
        """How busy it is."""
        ...


class OwnEngine:
    """`labkit.inference.engine.Engine` with scoring and embeddings.

    It hangs its hooks on copies of the modules around the same tensors: the model stays as it is,
    and this costs no memory.

    Args:
        loaded: The model.
        config: Of the engine.

    Raises:
        ValueError, NoKernelsError: As `Engine`.
    """

    def __init__(self, loaded: Loaded, config: EngineConfig) -> None:
        self._embed = Embedder(_sharing_tensors(loaded.model).eval())
        self._engine = Engine(_sharing_tensors(loaded.model), loaded.tokenizer, config)
        self.tokenizer, self.max_batch = loaded.tokenizer, config.max_batch
        self.max_length = loaded.config.max_length
        self.vocab_size = loaded.config.vocab_size

    @property
    def unfinished(self) -> int:
        """Requests that wait or run."""
        return self._engine.unfinished

    @property
    def running(self) -> list[int]:
        """Numbers of the requests in the batch."""
        return self._engine.running

    def add_request(
        self,
        prompt: str | Sequence[int],
        config: SamplingConfig,
        *,
        adapter: str | None = None,
        priority: int = 0,
        client: str = "",
        constraint: Constraint | None = None,
    ) -> int:
        return self._engine.add_request(
            prompt,
            config,
            adapter=adapter,
            priority=priority,
            client=client,
            constraint=constraint,
        )

    def step(self) -> list[Output]:
        return self._engine.step()

    def abort(self, key: int) -> None:
        self._engine.abort(key)

    def check_integrity(self) -> None:
        self._engine.check_integrity()
        if self._engine.adapters is not None:
            self._engine.adapters.check_integrity()

    def score(self, ids: Sequence[int], adapter: str | None, num_top: int) -> Scored:
        return score(self._engine, ids, adapter=adapter, num_top=num_top)

    def embed(self, ids: Sequence[int]) -> Float[Tensor, " D"]:
        return self._embed(ids)

    def mount(self, name: str, folder: Path) -> None:
        if self._engine.adapters is None:
            raise UnknownAdapterError("this server has no room for adapters: --max-adapters 8")
        self._engine.adapters.mount(name, folder)

    def unmount(self, name: str) -> None:
        if self._engine.adapters is None:
            raise UnknownAdapterError(f"no adapter {name!r} is mounted: none can be")
        self._engine.adapters.unmount(name)

    def mounted(self) -> dict[str, str]:
        bank = self._engine.adapters
        if bank is None:
            return {}
        aliases = bank.aliases
        meant = set(aliases.values())
        return {**aliases, **{name: name for name in bank.names if name not in meant}}

    def load(self) -> Load:
        engine, running = self._engine, len(self._engine.running)
        return Load(
            running=running,
            waiting=max(0, engine.unfinished - running),
            pages_used=engine.blocks.used_pages,
            pages=engine.blocks.num_pages,
            preemptions=engine.preemptions,
            cached_tokens=engine.cached_tokens,
            adapters={} if engine.adapters is None else engine.adapters.requests,
        )


def _sharing_tensors(model: MiniLLM) -> MiniLLM:
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
