"""The model behind the server: one worker, one base, any number of adapters chosen by name."""

import asyncio
import copy
from collections.abc import AsyncIterator, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from labkit.inference.generate import Generation, Piece, generate_tokenized, stream_pieces
from labkit.inference.sampling import SamplingConfig
from labkit.model.minillm import MiniLLM
from labkit.model.zoo import Loaded
from labkit.tuning import adapter_files


class UnknownModelError(ValueError):
    """A request names a model that is not served."""


class Engine:
    """Generates for one request at a time, in one worker thread, in the order of arrival.

    Every adapter has its own tree of modules around the *same* base tensors, so an adapter costs
    only its A and B, nothing is switched between requests, and the base cannot be touched.

    Args:
        loaded: The base model.
        adapters: Name in requests to PEFT folder.
        base_name: The base's name in requests; default: its zoo name, of a folder the last part.

    Raises:
        ValueError: An adapter has the base's name or was made for another model.
        CorruptFileError: An adapter's file is damaged.
    """

    def __init__(
        self,
        loaded: Loaded,
        adapters: Mapping[str, Path | str] | None = None,
        *,
        base_name: str | None = None,
    ) -> None:
        folder = Path(loaded.name)
        self.base_name = base_name or (folder.name if folder.is_dir() else loaded.name)
        self.tokenizer = loaded.tokenizer
        self.max_length = loaded.config.max_length
        self._models = {self.base_name: loaded.model}
        for name, path in (adapters or {}).items():
            if name in self._models:
                raise ValueError(f"adapter name {name!r} is taken: give each model its own name")
            self._models[name] = adapter_files.load(_sharing_tensors(loaded.model), path)
            self._models[name].eval()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="labkit-engine")

    @property
    def names(self) -> list[str]:
        """The models that requests may name, the base first."""
        return list(self._models)

    def model(self, name: str) -> MiniLLM:
        """The model of that name.

        Raises:
            UnknownModelError: It is not served; the message lists those that are.
        """
        if name not in self._models:
            raise UnknownModelError(
                f"the model {name!r} does not exist: this server has {', '.join(self._models)}"
            )
        return self._models[name]

    async def generate(
        self, name: str, prompts: list[list[int]], config: SamplingConfig
    ) -> list[Generation]:
        """Generate one text a prompt, as one batch, when the worker is free."""
        model = self.model(name)
        call = self._worker.submit(generate_tokenized, model, self.tokenizer, prompts, config)
        return await asyncio.wrap_future(call)

    def stream(self, name: str, prompt: list[int], config: SamplingConfig) -> AsyncIterator[Piece]:
        """Yield pieces as the worker makes them; leaving early frees the worker.

        Raises:
            UnknownModelError, ValueError: As `generate`, but at the call, before any piece.
        """
        pieces = stream_pieces(self.model(name), self.tokenizer, prompt, config)
        return self._relay(pieces)

    async def _relay(self, pieces: Generator[Piece, None, None]) -> AsyncIterator[Piece]:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Piece | None] = asyncio.Queue()
        left = Event()

        def work() -> None:
            try:
                for piece in pieces:
                    if left.is_set():
                        break
                    loop.call_soon_threadsafe(queue.put_nowait, piece)
            finally:
                pieces.close()
                loop.call_soon_threadsafe(queue.put_nowait, None)

        call = self._worker.submit(work)
        try:
            while (piece := await queue.get()) is not None:
                yield piece
            await asyncio.wrap_future(call)  # raises what the worker raised
        finally:
            left.set()

    def close(self) -> None:
        """Stop the worker after the request it is at."""
        self._worker.shutdown(wait=True, cancel_futures=True)


def _sharing_tensors(model: MiniLLM) -> MiniLLM:
    """A copy of the modules around the same tensors."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
