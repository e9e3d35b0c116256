"""`labkit prune`: weights set to zero, by magnitude or by Wanda."""

import argparse
import re
from typing import TYPE_CHECKING

from labkit.cli import compressing, options

if TYPE_CHECKING:
    from torch import Tensor

    from labkit.compression.statistics import HessianStats

SUMMARY = "Prune a model's weights and write it as a Hugging Face folder."
EXAMPLES = """\
examples:
  labkit prune smollm2-135m --method wanda --sparsity 0.5 --out models/wanda50
  labkit prune smollm2-135m --method magnitude --pattern 2:4 --out models/magnitude24 --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    compressing.add_arguments(parser)
    parser.add_argument(
        "--method", choices=("magnitude", "wanda"), default="wanda", help="default wanda"
    )
    amount = parser.add_mutually_exclusive_group(required=True)
    amount.add_argument("--sparsity", type=float, help="share of every row, in [0, 1)")
    amount.add_argument("--pattern", help="n:m keeps n of every m neighbours, such as 2:4")


def run(args: argparse.Namespace) -> None:
    """Prune every linear layer of the blocks."""
    from labkit.compression.pruning import PruningConfig, magnitude_mask, prune, wanda_mask

    options.check_out(args)
    config = PruningConfig(sparsity=args.sparsity, pattern=parse_pattern(args.pattern))

    def compress(weight: "Tensor", stats: "HessianStats") -> "Tensor":
        if args.method == "magnitude":
            return prune(weight, magnitude_mask(weight, config))
        return prune(weight, wanda_mask(weight, stats.column_norms, config))

    compressing.compress_and_write(args, compress)


def parse_pattern(text: str | None) -> tuple[int, int] | None:
    """Read "2:4" as (2, 4).

    Raises:
        ValueError: The text has another form.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if found is None:
        raise ValueError(f"--pattern {text!r} must read n:m, such as 2:4")
    return int(found[1]), int(found[2])
