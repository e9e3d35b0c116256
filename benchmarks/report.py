"""The README's table of measurements, made from the latest record of each setting and peer.

Write it into README.md: python -m benchmarks.report
"""

from pathlib import Path

from benchmarks import inference_report
from benchmarks.peers import RESULTS
from labkit.runtime.records import Record, load_records

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->"
HEAD = (
    "| what | setting | peer | ratio | ± | labkit | peer's | gate passed |\n"
    "|---|---|---|---|---|---|---|---|\n"
)
NAMES = {
    "decode": "greedy decoding",
    "grading": "grading a class",
    "lora_step": "LoRA training step",
    "lora_step_memory": "LoRA training step, peak memory",
    "lora_questions": "LoRA on questions, packed by us",
    "lora_questions_memory": "LoRA on questions, peak memory",
    "pretraining": "pretraining step",
    "pretraining_memory": "pretraining step, peak memory",
}
MEMORY = "grading_memory"


def table(folder: Path = RESULTS) -> str:
    """One row for each metric, setting and peer, the newest record of each; then inference's."""
    latest: dict[tuple[str, str, str], Record] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for record in load_records(path):
            peer = str(record.extra.get("peer", ""))
            latest[record.metric, _setting(record), peer] = record
    rows = [_row(record) for record in latest.values() if record.metric in NAMES]
    memory = [_memory(record) for record in latest.values() if record.metric == MEMORY]
    return HEAD + "".join([*rows, *memory]) + inference_report.tables(folder / "inference.jsonl")


def _memory(record: Record) -> str:
    return (
        f"\nA class of {record.extra['setting']} took {record.extra['seconds']:.0f} s; the grading "
        f"process itself held {record.value:.0f} MiB at most.\n"
    )


def _setting(record: Record) -> str:
    if "setting" in record.extra:
        return str(record.extra["setting"])
    batch = record.extra.get("batch_size") or "×".join(map(str, record.extra["batch"]))
    return f"{record.extra['dtype'].removeprefix('torch.')}, batch {batch}"


def _row(record: Record) -> str:
    rates, unit = record.extra["rates"], record.extra["rate_unit"]
    return (
        f"| {NAMES[record.metric]} | {_setting(record)} | {record.extra['peer']} "
        f"| {record.value:.2f} | {record.spread:.2f} | {rates['labkit']} {unit} "
        f"| {rates['peer']} {unit} | {record.extra['gate']} |\n"
    )


def main() -> None:
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(before + BEGIN + table() + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
