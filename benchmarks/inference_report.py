"""The README's tables of inference: engines side by side, goals, a load, and each switch alone."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from labkit.runtime.records import Record, load_records

SPEEDS = (
    ("prefill", 1, "prefill 512, tok/s"),
    ("first token", 1, "first token, ms"),
    ("decode", 1, "decode ×1, tok/s"),
    ("decode", 8, "×8"),
    ("decode", 32, "×32"),
)


def tables(path: Path) -> str:
    """All tables, from the newest record of each setting; empty if nothing was measured."""
    if not path.exists():
        return ""
    latest: dict[tuple[str, ...], Record] = {}
    for record in load_records(path):
        names = (str(record.extra.get(name, "")) for name in ("engine", "peer", "setting"))
        latest[record.metric, *names] = record
    found = {
        metric: [record for record in latest.values() if record.metric == metric]
        for metric in ("inference", "inference_ratio", "inference_switch")
    }
    return (
        _speeds(found["inference"])
        + _loads(found["inference"])
        + _ratios(found["inference_ratio"])
        + _switches(found["inference_switch"])
    )


def _speeds(records: Sequence[Record]) -> str:
    """A row for each engine; a speed whose gate failed is struck through."""
    cells = {(r.extra["engine"], r.extra["measure"], r.extra["batch"]): _value(r) for r in records}
    engines = dict.fromkeys(r.extra["engine"] for r in records if r.extra["measure"] == "decode")
    kl = {r.extra["engine"]: r.extra.get("kl_nats") for r in records}
    rows = [
        [engine, *(cells.get((engine, m, b), "") for m, b, _ in SPEEDS), f"{kl[engine]}"]
        for engine in engines
    ]
    return _table(["engine", *(head for _, _, head in SPEEDS), "KL, nats/token"], rows)


def _loads(records: Sequence[Record]) -> str:
    cells = {(r.extra["engine"], r.extra["measure"]): _value(r) for r in records}
    engines = dict.fromkeys(r.extra["engine"] for r in records if r.extra["measure"] == "load")
    rows = [[name, cells[name, "load"], cells[name, "load latency"]] for name in engines]
    return _table(["ragged load served by", "answers' tok/s", "median time to the end, s"], rows)


def _ratios(records: Sequence[Record]) -> str:
    rows = [
        [
            *(r.extra[name] for name in ("engine", "peer", "setting")),
            _value(r),
            f"{r.extra['goal']}",
            "yes" if r.extra["met"] and r.extra["passed"] else "**no**",
        ]
        for r in records
    ]
    return _table(["ours", "the better peer", "what", "ratio", "goal", "met"], rows)


def _switches(records: Sequence[Record]) -> str:
    rows = [
        [
            r.extra["setting"],
            f"{_value(r)} {r.unit}",
            *(f"{r.extra.get(name, '')}" for name in ("kl_nats", "share_of_bandwidth")),
        ]
        for r in records
    ]
    head = ["switch alone", "decoding, executor only", "KL, nats/token", "share of bandwidth"]
    return _table(head, rows)


def _value(record: Record) -> str:
    shown = f"{record.value:g} ± {record.spread:g}"
    return f"~~{shown}~~" if record.extra["passed"] is False else shown


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["", *(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)), ""]
    return "\n".join(lines) if len(lines) > 4 else ""
