"""Step records as they come: a table that grows on stdout, a bar on stderr."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labkit.training.loop import StepRecord

COLUMNS = (("step", 6), ("loss_nats", 10), ("tokens", 8), ("grad_norm", 10), ("lr", 10))


def show_steps(
    records: "Iterator[StepRecord]", *, total: int, log_every: int, as_json: bool
) -> None:
    """Run a training by taking its records; print the first, every `log_every`-th and the last.

    With `as_json` every record is a line of JSON instead.

    Raises:
        ValueError: `log_every` is below 1; or whatever the training raises.
    """
    from labkit.runtime.progress import progress

    if log_every < 1:
        raise ValueError(f"--log-every {log_every} must be at least 1")
    for record in progress(records, total=total, desc="train", unit="step"):
        fields = asdict(record)
        if as_json:
            print(json.dumps(fields), flush=True)
            continue
        if record.step == 1 or not record.step % log_every or record.step == total:
            if record.step == 1:
                print("  ".join(name.rjust(width) for name, width in COLUMNS))
            line = (f"{fields[name]:{width}.4g}" for name, width in COLUMNS[1:])
            print("  ".join([f"{record.step:6d}", *line]), flush=True)
