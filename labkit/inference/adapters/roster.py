"""Who is mounted: slots, versions, aliases and reference counts; no weights.

A version's name is never given twice, so whoever holds `finance@v3` holds those weights. `finance`
alone is an alias, which a new version takes over. What is unmounted while requests run on it is
"draining": it takes no new request, and goes with the last.
"""

import itertools
import threading
from dataclasses import dataclass

from labkit.inference.adapters.errors import (
    AdapterCapacityError,
    AdapterNameError,
    UnknownAdapterError,
)
from labkit.inference.adapters.names import parse_name
from labkit.inference.adapters.places import Place

_uids = itertools.count(1)  # of the process: two banks never share one


@dataclass(slots=True, eq=False)
class Entry:
    """One mounted version.

    Attributes:
        stem: its name without the version.
        version: counted from 1.
        slot: its number in the batch, from 1; given to another once this one is gone.
        uid: its number in the process, never given again: what caches should be keyed by.
        rank: R.
        places: the projections it adapts.
        requests: how many run on it.
        state: "loading", "live" or "draining".
    """

    stem: str
    version: int
    slot: int
    uid: int
    rank: int
    places: frozenset[Place]
    requests: int = 0
    state: str = "loading"

    @property
    def name(self) -> str:
        return f"{self.stem}@v{self.version}"


class Roster:
    """The state that `AdapterBank` shares between threads; every method is atomic.

    One slot more than `max_adapters` exists, so that a new version is complete before the old goes.
    """

    def __init__(self, max_adapters: int) -> None:
        self.max_adapters = max_adapters
        self._lock = threading.RLock()
        self._entries: dict[int, Entry] = {}  # by slot
        self._aliases: dict[str, Entry] = {}
        self._last: dict[str, int] = {}  # the highest version ever given, by stem

    def reserve(self, name: str, rank: int, places: frozenset[Place], *, keep_older: bool) -> Entry:
        """Give a slot and a version to an adapter that is about to be loaded.

        Raises:
            AdapterNameError: malformed, reserved, or a version not above every earlier one.
            AdapterCapacityError: no slot is free.
        """
        stem, version = parse_name(name)
        with self._lock:
            last = self._last.get(stem, 0)
            if version is not None and version <= last:
                raise AdapterNameError(
                    f"{name!r} is not above {stem}@v{last}, the last one given: a version's name "
                    f"never means other weights; take {stem}@v{last + 1}"
                )
            slot = self._free_slot(stem, keep_older)
            entry = Entry(stem, version or last + 1, slot, next(_uids), rank, places)
            self._last[stem] = entry.version
            self._entries[slot] = entry
            return entry

    def publish(self, entry: Entry, *, keep_older: bool) -> None:
        """Let requests come: the stem now means this version; older ones drain unless kept."""
        with self._lock:
            entry.state = "live"
            self._aliases[entry.stem] = entry
            if not keep_older:
                for older in self._live(entry.stem):
                    if older is not entry:
                        self._retire(older)

    def cancel(self, entry: Entry) -> None:
        """Give back the slot of an adapter that could not be loaded."""
        with self._lock:
            assert entry.state == "loading", entry
            del self._entries[entry.slot]

    def alias(self, alias: str, name: str) -> None:
        """Let a name without a version mean a mounted adapter, until it is unmounted.

        Raises:
            AdapterNameError: the alias is malformed or has a version.
            UnknownAdapterError: the adapter is not mounted.
        """
        if parse_name(alias)[1] is not None:
            raise AdapterNameError(f"{alias!r} names a version, which is no alias; leave out @v")
        with self._lock:
            self._aliases[alias] = self.find(name)

    def retire(self, name: str) -> bool:
        """Take the adapter that a name means off; its aliases go too, and mean nothing else.

        Returns:
            Whether it is gone; otherwise it is draining, and goes with its last request.

        Raises:
            UnknownAdapterError: nothing is mounted under the name.
        """
        with self._lock:
            return self._retire(self.find(name))

    def find(self, name: str) -> Entry:
        """The live adapter that a version's name or an alias means.

        Raises:
            UnknownAdapterError: there is none.
        """
        with self._lock:
            entry = self._aliases.get(name)
            if entry is None:
                by_name = (e for e in self._entries.values() if e.name == name)
                entry = next((e for e in by_name if e.state == "live"), None)
            if entry is None:
                known = ", ".join([*self.names, *self.aliases]) or "none is"
                raise UnknownAdapterError(f"no adapter {name!r} is mounted; these are: {known}")
            return entry

    def acquire(self, which: int | str) -> Entry:
        """Count a request in, by name or by slot; a draining adapter takes none.

        Raises:
            UnknownAdapterError: nothing live is there.
        """
        with self._lock:
            entry = self.find(which) if isinstance(which, str) else self.at(which)
            if entry.state != "live":
                raise UnknownAdapterError(f"{entry.name} in slot {which} is {entry.state}")
            entry.requests += 1
            return entry

    def release(self, slot: int) -> None:
        """Count a request out, and free the slot of a draining adapter with its last.

        Raises:
            UnknownAdapterError: the slot is empty.
            ValueError: no request is counted on it.
        """
        with self._lock:
            entry = self.at(slot)
            if entry.requests == 0:
                raise ValueError(f"{entry.name} in slot {slot} has no request to release")
            entry.requests -= 1
            if entry.state == "draining" and entry.requests == 0:
                del self._entries[slot]

    def at(self, slot: int) -> Entry:
        """The adapter in a slot, live or draining.

        Raises:
            UnknownAdapterError: there is none.
        """
        entry = self._entries.get(slot)
        if entry is None or entry.state == "loading":
            raise UnknownAdapterError(f"slot {slot} holds no adapter; slot 0 is the base")
        return entry

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All that holds a slot, by slot."""
        with self._lock:
            return tuple(entry for _, entry in sorted(self._entries.items()))

    @property
    def names(self) -> tuple[str, ...]:
        """Names, with versions, that take requests."""
        return tuple(entry.name for entry in self.entries if entry.state == "live")

    @property
    def aliases(self) -> dict[str, str]:
        """The name, with its version, that each alias means."""
        with self._lock:
            return {alias: entry.name for alias, entry in self._aliases.items()}

    def check_integrity(self) -> None:
        """Raise AssertionError where the state contradicts itself."""
        with self._lock:
            entries = list(self._entries.items())
            assert all(slot == e.slot for slot, e in entries), entries
            assert all(1 <= slot <= self.max_adapters + 1 for slot, _ in entries), entries
            assert len({e.uid for _, e in entries}) == len(entries), entries
            assert len({e.name for _, e in entries}) == len(entries), entries
            assert all(e.requests >= 0 for _, e in entries), entries
            assert all(e.requests for _, e in entries if e.state == "draining"), entries
            assert all(e.version <= self._last[e.stem] for _, e in entries), entries
            for alias, entry in self._aliases.items():
                assert entry.state == "live", (alias, entry)
                assert self._entries.get(entry.slot) is entry, (alias, entry)

    def _live(self, stem: str) -> list[Entry]:
        return [e for e in self.entries if e.stem == stem and e.state == "live"]

    def _free_slot(self, stem: str, keep_older: bool) -> int:
        leaving = 0 if keep_older else len(self._live(stem))
        draining = [e.name for e in self.entries if e.state == "draining"]
        staying = sum(e.state != "draining" for e in self.entries) - leaving
        free = [s for s in range(1, self.max_adapters + 2) if s not in self._entries]
        if staying >= self.max_adapters or not free:
            waits = f"; {', '.join(draining)} will go with the last request" * bool(draining)
            raise AdapterCapacityError(
                f"all of max_adapters={self.max_adapters} are taken{waits}: unmount one first"
            )
        return free[0]

    def _retire(self, entry: Entry) -> bool:
        self._aliases = {a: e for a, e in self._aliases.items() if e is not entry}
        entry.state = "draining"
        if entry.requests:
            return False
        del self._entries[entry.slot]
        return True
