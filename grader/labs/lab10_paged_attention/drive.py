"""How each exercise of lab 10 is called. Runs beside the student's code: numpy and torch only."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from grader.checks.explain import ContractError

Arrays = dict[str, Any]
MOST_STEPS = 400
MODULUS = 2**61 - 1


def _parts(result: Any, *names: str) -> tuple[Any, ...]:
    """The parts of a returned tuple; a sentence instead of an unpacking error."""
    if type(result) is not tuple or len(result) != len(names):
        wanted, kind = ", ".join(names), type(result).__name__
        raise ContractError(f"expected a tuple ({wanted}), got an object of type {kind}")
    return result


def _whole(value: Any, name: str, most: int) -> int:
    """An int between 0 and a number."""
    if type(value) is not int:
        raise ContractError(f"{name}: expected an int, got {type(value).__name__}")
    if not 0 <= value <= most:
        raise ContractError(f"{name}: expected 0 to {most}, got {value}")
    return value


def _numbers(values: Sequence[int] | Sequence[list[int]]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def page_bill(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """The three figures of several shapes and kinds of numbers."""
    results: Arrays = {}
    for case in inputs["cases"]:
        config = SimpleNamespace(**case["config"])
        found = _parts(impl(config, *case["arguments"]), "page_bytes", "waste", "batch")
        page_bytes, waste, batch = found
        for name, value, kind in zip(
            ("page_bytes", "waste", "batch"), found, (int, float, int), strict=True
        ):
            if type(value) is not kind:
                got = type(value).__name__
                raise ContractError(f"{name}: expected {kind.__name__}, got {got}")
        results |= {
            f"{case['kind']}: bytes of a page": torch.tensor(page_bytes),
            f"{case['kind']}: expected waste": waste,
            f"{case['kind']}: sequences that fit": torch.tensor(batch),
        }
    return results


class Memory:
    """Pages of rows, written and read through tables that somebody else hands out."""

    def __init__(self, num_pages: int, page_size: int) -> None:
        self.rows = torch.full((num_pages, page_size), -1)

    def places(self, table: Any, length: int) -> tuple[Tensor, Tensor]:
        """Page and row of the first tokens of a table."""
        P, size = self.rows.shape
        if type(table) is not list:
            raise ContractError(f"a table: expected a list of ints, got {type(table).__name__}")
        pages = [_whole(page, "a page in a table", P - 1) for page in table]
        if len(pages) * size < length:
            raise ContractError(f"a table of {len(pages)} pages has no room for {length} tokens")
        t = torch.arange(length)
        return _numbers(pages)[t // size], t % size

    def write(self, table: Any, start: int, rows: Sequence[int]) -> None:
        """Put rows at the positions from `start` on."""
        page, row = self.places(table, start + len(rows))
        self.rows[page[start:], row[start:]] = _numbers(rows)

    def read(self, table: Any, length: int) -> Tensor:
        page, row = self.places(table, length)
        return self.rows[page, row]


class _Tables:
    """A manager under test, beside what its sequences hold."""

    def __init__(self, manager: Any, num_pages: int, page_size: int) -> None:
        self.manager, self.memory = manager, Memory(num_pages, page_size)
        self.held: dict[int, list[int]] = {}
        self.next = 0

    def apply(self, kind: str, key: int, value: float) -> int:
        """Run one operation; the number of pages that it had copied."""
        if kind == "begin":
            self.manager.begin(key)
            self.held[key] = []
        elif kind == "append":
            return self._append(key, int(value))
        elif kind == "fork":
            self.manager.fork(key, int(value))
            self.held[int(value)] = list(self.held[key])
        elif kind == "truncate":
            length = int(value * len(self.held[key]))
            self.manager.truncate(key, length)
            del self.held[key][length:]
        else:
            self.manager.end(key)
            self.held.pop(key, None)
        return 0

    def _append(self, key: int, count: int) -> int:
        copies = self.manager.append(key, count)
        if type(copies) is not list:
            raise ContractError(f"append: expected a list of pairs, got {type(copies).__name__}")
        last = len(self.memory.rows) - 1
        for pair in copies:
            source, to = _parts(pair, "source", "to")
            self.memory.rows[_whole(to, "to", last)] = self.memory.rows[
                _whole(source, "source", last)
            ].clone()
        rows = list(range(self.next, self.next + count))
        self.memory.write(self.manager.table(key), len(self.held[key]), rows)
        self.held[key] += rows
        self.next += count
        return len(copies)

    def read(self) -> Tensor:
        """What all sequences read through their tables, one after the other."""
        read = [self.memory.read(self.manager.table(k), len(v)) for k, v in self.held.items()]
        return torch.cat(read) if read else _numbers([])

    def counts(self) -> list[int]:
        return [len(self.manager.table(key)) for key in self.held]


def page_manager(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Long random sequences of operations, and what every table reads after each of them."""
    results: Arrays = {}
    for case in inputs["cases"]:
        sizes = case["num_pages"], case["page_size"]
        tables = _Tables(impl(*sizes), *sizes)
        refused, copies, free, pages, read = [], [], [], [], []
        for kind, key, value in case["operations"]:
            done, copied = True, 0
            try:
                copied = tables.apply(kind, key, value)
            except (MemoryError, KeyError) as error:
                if isinstance(error, KeyError) and key in tables.held:
                    raise
                done = False
            refused.append(not done)
            copies.append(copied)
            free.append(_whole(tables.manager.free_pages, "free_pages", sizes[0]))
            pages += tables.counts()
            read.append(tables.read())
        for key in list(tables.held):
            tables.apply("end", key, 0)
        results |= {
            f"{case['kind']}: which operations were refused": _numbers(refused),
            f"{case['kind']}: tokens read through the tables": torch.cat(read),
            f"{case['kind']}: copies that each append asks for": _numbers(copies),
            f"{case['kind']}: pages in each table": _numbers(pages),
            f"{case['kind']}: free pages after each operation": _numbers(free),
            f"{case['kind']}: free pages when all have ended": tables.manager.free_pages,
        }
    return results


def _keys(adapter: int, tokens: Sequence[int]) -> list[int]:
    """A number for each token that depends on the adapter and on all tokens up to it."""
    found, state = [], 7919 * (adapter + 1)
    for token in tokens:
        state = (state * 1_000_003 + token + 1) % MODULUS
        found.append(state)
    return found


def prefix_cache(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Requests that come and go: how much was found, and whether what is read is theirs."""
    results: Arrays = {}
    for case in inputs["cases"]:
        sizes = case["num_pages"], case["page_size"]
        cache, memory = impl(*sizes), Memory(*sizes)
        tables: dict[int, tuple[Any, int]] = {}
        found, pages, read = [], [], []
        for kind, key, adapter, tokens in case["events"]:
            if kind == "close":
                cache.close(key)
                del tables[key]
                continue
            given = list(tokens)
            cached, table = _parts(cache.open(key, given, adapter), "cached", "table")
            cached = _whole(cached, "cached", len(tokens))
            memory.write(table, cached, _keys(adapter, tokens)[cached:])
            tables[key] = table, len(tokens)
            found.append(cached)
            pages.append(len(table))
            read += [memory.read(*each) for each in tables.values()]
        results |= {
            f"{case['kind']}: keys read through the tables": torch.cat(read),
            f"{case['kind']}: tokens found by each request": _numbers(found),
            f"{case['kind']}: pages of each table": _numbers(pages),
        }
    return results


class _Operations(TorchDispatchMode):
    """Counts torch's operations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


PAGES = ("q", "k_pages", "v_pages", "tables", "lengths")


def paged_decode(impl: Callable[..., Tensor], inputs: Arrays) -> Arrays:
    """Ragged batches with and without a window; the number of operations for few and many."""
    results: Arrays = {}
    for case in inputs["cases"]:
        given = [case[name].clone() for name in PAGES]
        out = impl(*given, case["window"])
        if not isinstance(out, Tensor) or out.shape != given[0].shape:
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ContractError(f"expected outputs of shape {tuple(given[0].shape)}, got {got}")
        results |= {
            f"{case['kind']}: arguments left unchanged": given,
            f"{case['kind']}: outputs": out,
        }
    q, *pages, tables, lengths = (inputs["cases"][0][name] for name in PAGES)
    counts = []
    for repeats in (1, 5):
        rows = [x.repeat(repeats, *[1] * (x.ndim - 1)) for x in (q, tables, lengths)]
        with _Operations() as operations:
            impl(rows[0], *pages, *rows[1:])
        counts.append(operations.count)
    results["operations: no more for five times the sequences"] = counts[1] <= counts[0]
    return results


class _Requests:
    """A model that answers by what it was fed, behind a scheduler under test."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.texts: dict[int, list[int]] = {}  # prompts and what was answered
        self.fed: dict[int, list[int]] = {}  # tokens whose keys lie in pages
        self.ended: dict[int, int] = {}

    def add(self, key: int, prompt: list[int], most_new: int, priority: int) -> None:
        self.texts[key], self.fed[key] = list(prompt), []
        self.scheduler.add(key, list(prompt), most_new, priority)

    def step(self, number: int) -> tuple[list[list[int]], list[int]]:
        """Plan and run a step; its chunks and who was preempted."""
        chunks, preempted = _parts(self.scheduler.plan(), "chunks", "preempted")
        for key in preempted:
            self.fed[self._known(key)] = []
        shown, chosen = [], {}
        for chunk in chunks:
            key, start, tokens = _parts(chunk, "key", "start", "tokens")
            fed = self.fed[self._known(key)]
            if start != len(fed):
                raise ContractError(f"a chunk starts at {start}, where {len(fed)} tokens were run")
            fed += tokens
            shown.append([key, start, len(tokens)])
            if fed == self.texts[key]:
                chosen[key] = _keys(0, fed)[-1] % 97
                self.texts[key].append(chosen[key])
        for key in self.scheduler.finish(chosen):
            self.ended[self._known(key)] = number
        return sorted(shown), sorted(preempted)

    def _known(self, key: Any) -> int:
        if type(key) is not int or key not in self.texts:
            raise ContractError(f"there is no request with the key {key!r}")
        return key


def step_scheduler(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Traffic that comes and goes: every plan, who was preempted, and every text."""
    results: Arrays = {}
    for case in inputs["cases"]:
        scheduler = impl(*case["sizes"])
        requests = _Requests(scheduler)
        plans, preemptions, free = [], [], []
        for step in range(MOST_STEPS):
            for request in case["arrivals"].get(str(step), []):
                requests.add(*request)
            for key in case["aborts"].get(str(step), []):
                if key in requests.texts and key not in requests.ended:
                    scheduler.abort(key)
                    requests.ended[key] = step
            chunks, preempted = requests.step(step)
            plans += [[step, *chunk] for chunk in chunks]
            preemptions += [[step, key] for key in preempted]
            free.append(_whole(scheduler.free_pages, "free_pages", case["sizes"][0]))
            if step >= case["last"] and len(requests.ended) == len(requests.texts):
                break
        name = case["kind"]
        results |= {
            f"{name}: requests that came to an end": len(requests.ended),
            f"{name}: tokens in the largest step": _largest(plans),
            f"{name}: texts": [_numbers(text) for text in requests.texts.values()],
            f"{name}: preemptions, as (step, key)": _numbers(preemptions).view(-1, 2),
            f"{name}: chunks, as (step, key, start, count)": _numbers(plans).view(-1, 4),
            f"{name}: free pages after each step": _numbers(free),
        }
    return results


def _largest(plans: list[list[int]]) -> int:
    totals: dict[int, int] = {}
    for step, _, _, count in plans:
        totals[step] = totals.get(step, 0) + count
    return max(totals.values(), default=0)


def _replay(case: Arrays) -> Callable[[list[tuple[Any, ...]]], list[Any]]:
    """The case's manager as a learner may call it; it does its work where it is."""

    def replay(operations: list[tuple[Any, ...]]) -> list[Any]:
        return cast(list[Any], case["replay"](operations))

    return replay


def diagnose(impl: Callable[..., Any], inputs: Arrays) -> Arrays:
    """Ask for the diagnosis of several managers."""
    return {
        f"manager {index + 1}": impl(_replay(case), case["num_pages"], case["page_size"])
        for index, case in enumerate(inputs["cases"])
    }


DRIVES: dict[str, Callable[[Any, Arrays], Arrays]] = {
    "page_bill": page_bill,
    "page_manager": page_manager,
    "prefix_cache": prefix_cache,
    "paged_decode": paged_decode,
    "step_scheduler": step_scheduler,
    "diagnose": diagnose,
}
