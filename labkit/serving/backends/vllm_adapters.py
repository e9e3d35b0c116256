"""The adapters that a vLLM server should have, and the means to see that it has them.

vLLM forgets adapters when it restarts, and may answer from an old adapter's prefix cache where a
name is used again. So versions live here: every load gets a name of its own, requests name what
they mean by alias, and `reconcile` compares what is there with what should be.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from labkit.inference.adapters.errors import AdapterError
from labkit.inference.adapters.roster import Roster
from labkit.serving.backends.adapter_files_check import WEIGHTS, check_files
from labkit.serving.backends.vllm_client import VllmClient
from labkit.serving.errors import ApiError

log = logging.getLogger(__name__)
BASE = "base"  # the base model's name upstream


@dataclass(frozen=True, slots=True)
class _Mounted:
    """Where an adapter's files lie, and what they were."""

    folder: Path
    digest: bytes


class VllmAdapters:
    """Names, versions and references on this side; weights on the other.

    Args:
        client: To the server.
        max_adapters: Most that are mounted at a time.
        max_rank: Highest rank taken.
    """

    def __init__(self, client: VllmClient, *, max_adapters: int, max_rank: int) -> None:
        self.roster = Roster(max_adapters)
        self._client, self._max_rank = client, max_rank
        self._mounted: dict[str, _Mounted] = {}  # by name with version
        self._changing = asyncio.Lock()

    def declare(self, name: str, folder: Path) -> None:
        """Mount an adapter before the server runs; the next `reconcile` loads it.

        Raises:
            AdapterError: It is refused.
        """
        mounted, rank = self._looked_at(folder)
        entry = self.roster.reserve(name, rank, frozenset(), keep_older=False)
        self._mounted[entry.name] = mounted
        self.roster.publish(entry, keep_older=False)

    async def load(self, name: str, folder: Path) -> None:
        """Load the next version under a name of its own; then let `name` mean it.

        Raises:
            AdapterError, ApiError: It is refused here, or by vLLM.
        """
        mounted, rank = await asyncio.to_thread(self._looked_at, folder)
        async with self._changing:
            entry = self.roster.reserve(name, rank, frozenset(), keep_older=False)
            try:
                await self._client.load(entry.name, folder)
            except BaseException:
                self.roster.cancel(entry)
                raise
            self._mounted[entry.name] = mounted
            self.roster.publish(entry, keep_older=False)
        await self._sweep()

    async def unload(self, name: str) -> None:
        """Take an adapter off; vLLM drops it with its last request."""
        self.roster.retire(name)
        await self._sweep()

    @asynccontextmanager
    async def using(self, name: str | None) -> AsyncIterator[str]:
        """Hold an adapter while a request runs; its name upstream.

        Raises:
            UnknownAdapterError: Nothing is mounted under the name.
        """
        if name is None:
            yield BASE
            return
        entry = self.roster.acquire(name)
        try:
            yield entry.name
        finally:
            self.roster.release(entry.slot)
            if entry.state == "draining":
                await asyncio.shield(self._sweep())

    async def reconcile(self) -> None:
        """Make the server have exactly what it should.

        An adapter whose files have changed since it was mounted, or that the server refuses now,
        is taken off: its name never means other weights.
        """
        async with self._changing:
            there = set(await self._client.models()) - {BASE}
            for name in set(self.roster.names) - there:
                await self._restore(name)
        await self._sweep()

    async def _restore(self, name: str) -> None:
        mounted = self._mounted[name]
        try:
            now, _ = await asyncio.to_thread(self._looked_at, mounted.folder)
            if now.digest != mounted.digest:
                raise ApiError(f"the files in {mounted.folder} are others than those of {name}")
            await self._client.load(name, mounted.folder)
        except (AdapterError, ApiError) as error:
            if isinstance(error, ApiError) and error.status == 503:
                raise
            log.error("%s is taken off: %s", name, error)
            self.roster.retire(name)

    async def _sweep(self) -> None:
        """Unload upstream what no name means and no request holds."""
        async with self._changing:
            held = {entry.name for entry in self.roster.entries}
            for name in self._mounted.keys() - held:
                try:
                    await self._client.unload(name)
                except ApiError as error:
                    log.warning("%s was not unloaded: %s", name, error)
                del self._mounted[name]

    def _looked_at(self, folder: Path) -> tuple[_Mounted, int]:
        rank = check_files(folder, self._max_rank)
        digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).digest()
        return _Mounted(folder, digest), rank
