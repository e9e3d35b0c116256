"""Results on stdout: a short table for people, JSON for programs."""

import json
from collections.abc import Mapping, Sequence

Row = Mapping[str, object]


def table(rows: Sequence[Row]) -> str:
    """Rows with the same keys as aligned columns, numbers to the right."""
    header = list(rows[0])
    cells = [header, *([cell(row[name]) for name in header] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(header))]
    numeric = [isinstance(rows[0][name], int | float) for name in header]
    lines = [
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    ]
    return "\n".join(lines)


def cell(value: object) -> str:
    """Four significant digits, whole numbers whole, None as a dash."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_rows(rows: Sequence[Row], *, as_json: bool) -> None:
    """Print rows as a table, or as a JSON list (a single row as an object)."""
    if as_json:
        print(json.dumps(dict(rows[0]) if len(rows) == 1 else [dict(row) for row in rows]))
    else:
        print(table(rows))
