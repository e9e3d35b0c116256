"""`labkit quantize`: fewer bits a weight, by round-to-nearest or GPTQ."""

import argparse
from typing import TYPE_CHECKING

from labkit.cli import compressing, options

if TYPE_CHECKING:
    from torch import Tensor

    from labkit.compression.calibration import Compressed
    from labkit.compression.statistics import HessianStats

SUMMARY = "Quantize a model's weights and write them, dequantized, as a Hugging Face folder."
EXAMPLES = """\
examples:
  labkit quantize smollm2-135m --method gptq --bits 4 --group 64 --out models/gptq4
  labkit quantize smollm2-135m --method rtn --bits 3 --group 64 --out models/rtn3 --json
  labkit quantize mini --bits 8 --group 0 --symmetric --text held_out.txt --out models/int8
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    compressing.add_arguments(parser)
    parser.add_argument("--method", choices=("rtn", "gptq"), default="gptq", help="default gptq")
    parser.add_argument("--bits", type=int, default=4, help="2 to 8 (default 4)")
    parser.add_argument("--group", type=int, default=64, help="default 64; 0: one scale a row")
    parser.add_argument("--symmetric", action="store_true", help="no zero point")
    parser.add_argument("--damping", type=float, default=0.01, help="of GPTQ (default 0.01)")
    parser.add_argument(
        "--act-order", action=argparse.BooleanOptionalAction, default=True, help="of GPTQ"
    )


def run(args: argparse.Namespace) -> None:
    """Quantize every linear layer of the blocks."""
    from labkit.compression.gptq import GptqConfig, gptq
    from labkit.compression.rtn import rtn
    from labkit.quant.affine import AffineConfig

    options.check_out(args)
    if args.group < 0:
        raise ValueError(f"--group {args.group} must be at least 0 (0: one scale a row)")
    affine = AffineConfig(
        bits=args.bits,
        symmetric=args.symmetric,
        granularity="group" if args.group else "channel",
        group_size=args.group or None,
    )
    block_size = args.group * max(1, 128 // args.group) if args.group else 128  # whole groups
    config = GptqConfig(
        affine=affine, act_order=args.act_order, damping=args.damping, block_size=block_size
    )

    def compress(weight: "Tensor", stats: "HessianStats") -> "Compressed":
        if args.method == "rtn":
            return rtn(weight, affine)
        return gptq(weight, stats.hessian, config)

    compressing.compress_and_write(args, compress)
