"""What of lab 10's questions stays outside the box: the page managers to be diagnosed."""

from collections.abc import Callable
from functools import partial
from typing import Any

from grader.checks.outside import Outside

Arrays = dict[str, Any]
MOST_NUMBERS = 2**12
LARGEST = 2**31
_NO_COPY, _EARLY_FREE, _FLAT_DIGEST, _COPY_LEAK = 1, 2, 3, 4
SHAPES = {"write": 3, "fork": 3, "end": 2, "read": 2}


def managers(inputs: Arrays) -> Arrays:
    """Each case's manager as a function of operations, with its sizes."""
    return {"cases": [_case(**case) for case in inputs["cases"]]}


def _case(fault: int, num_pages: int, page_size: int) -> Arrays:
    """A page manager; 0 is healthy, 1 to 4 have one fault each."""
    replay = partial(_replay, fault, num_pages, page_size)
    return {
        "num_pages": num_pages,
        "page_size": page_size,
        "replay": Outside(replay, MOST_NUMBERS),
    }


def _replay(fault: int, num_pages: int, page_size: int, operations: Any) -> list[Any]:
    """Replies of a manager that begins empty: free pages, or for "read" the rows."""
    if type(operations) not in (list, tuple):
        raise ValueError("expected a list of operations")
    manager = _Manager(fault, num_pages, page_size)
    return [manager.reply(number, operation) for number, operation in enumerate(operations)]


class _Manager:
    """Pages with counts and a prefix index, and in each row the sum of the tokens up to it."""

    def __init__(self, fault: int, num_pages: int, page_size: int) -> None:
        self._fault, self._size = fault, page_size
        self._rows = [[0] * page_size for _ in range(num_pages)]
        self._count = [0] * num_pages
        self._free = list(range(num_pages))
        self._known: dict[Any, int] = {}
        self._tables: dict[int, list[int]] = {}
        self._tokens: dict[int, list[int]] = {}

    def reply(self, number: int, operation: Any) -> Any:
        """Run one operation."""
        self._validate(number, operation)
        kind, key, *rest = operation
        if kind == "write":
            self._write(key, list(rest[0]))
        elif kind == "fork":
            self._fork(key, rest[0])
        elif kind == "end":
            self._end(key)
        else:
            return self._read(key)
        return len(self._free)

    def _validate(self, number: int, operation: Any) -> None:
        where = f"operation {number}"
        if type(operation) not in (list, tuple) or not operation or operation[0] not in SHAPES:
            raise ValueError(f"{where}: expected a tuple that begins with one of {list(SHAPES)}")
        kind, *rest = operation
        if len(operation) != SHAPES[kind] or type(rest[0]) is not int:
            raise ValueError(f"{where}: {kind!r} takes {SHAPES[kind] - 1} values, first a key")
        if kind != "write" and rest[0] not in self._tables:
            raise ValueError(f"{where}: there is no sequence {rest[0]}")
        if kind == "fork" and (type(rest[1]) is not int or rest[1] in self._tables):
            raise ValueError(f"{where}: the child needs a key that nobody has")
        if kind == "write" and not _tokens(rest[1]):
            raise ValueError(f"{where}: expected a list of one token or more, whole numbers")

    def _digest(self, tokens: list[int], index: int) -> Any:
        end = (index + 1) * self._size
        start = end - self._size if self._fault == _FLAT_DIGEST else 0
        return tuple(tokens[start:end])

    def _write(self, key: int, tokens: list[int]) -> None:
        if key not in self._tables:
            self._tables[key], self._tokens[key] = [], []
            self._share_prefix(key, tokens)
            tokens = tokens[len(self._tokens[key]) :]
        table, held = self._tables[key], self._tokens[key]
        if len(held) % self._size and self._count[table[-1]] > 1 and self._fault != _NO_COPY:
            source = table[-1]
            table[-1] = self._take()
            self._rows[table[-1]] = list(self._rows[source])
            self._count[source] -= self._fault != _COPY_LEAK
        for token in tokens:
            if len(held) % self._size == 0:
                table.append(self._take())
            held.append(token)
            self._rows[table[-1]][(len(held) - 1) % self._size] = sum(held)
            if len(held) % self._size == 0:
                self._known.setdefault(self._digest(held, len(table) - 1), table[-1])

    def _share_prefix(self, key: int, tokens: list[int]) -> None:
        for index in range(len(tokens) // self._size):
            page = self._known.get(self._digest(tokens, index))
            if page is None:
                break
            self._count[page] += 1
            self._tables[key].append(page)
        self._tokens[key] = tokens[: len(self._tables[key]) * self._size]

    def _take(self) -> int:
        if not self._free:
            raise ValueError("no page is free")
        page = self._free.pop()
        self._known = {digest: p for digest, p in self._known.items() if p != page}
        self._count[page] = 1
        return page

    def _fork(self, parent: int, child: int) -> None:
        for page in self._tables[parent]:
            self._count[page] += 1
        self._tables[child] = list(self._tables[parent])
        self._tokens[child] = list(self._tokens[parent])

    def _end(self, key: int) -> None:
        for page in reversed(self._tables.pop(key)):
            self._count[page] = 0 if self._fault == _EARLY_FREE else self._count[page] - 1
            if self._count[page] == 0 and page not in self._free:
                self._free.append(page)
                self._known = {digest: p for digest, p in self._known.items() if p != page}
        del self._tokens[key]

    def _read(self, key: int) -> list[int]:
        table, size = self._tables[key], self._size
        return [self._rows[table[t // size]][t % size] for t in range(len(self._tokens[key]))]


def _tokens(value: Any) -> bool:
    return (
        type(value) in (list, tuple)
        and len(value) > 0
        and all(type(token) is int and abs(token) < LARGEST for token in value)
    )


HAND_OVER: dict[str, Callable[[Arrays], Arrays]] = {"diagnose": managers}
