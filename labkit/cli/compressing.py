"""What `labkit quantize` and `labkit prune` share: calibrate, compress, measure, write."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.cli import options, texts
from labkit.cli.evaluate import token_nats
from labkit.cli.report import print_rows

if TYPE_CHECKING:
    from torch import Tensor

    from labkit.compression.calibration import Compressed
    from labkit.compression.statistics import HessianStats
    from labkit.model.zoo import Loaded

    Compress = Callable[[Tensor, HessianStats], Tensor | Compressed]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, output, calibration and measurement."""
    options.add_model(parser)
    options.add_out(parser)
    parser.add_argument(
        "--calibration", type=Path, help="UTF-8 file (default: Python's documentation)"
    )
    parser.add_argument("--calibration-windows", type=int, default=16, help="default 16")
    parser.add_argument("--length", type=int, default=256, help="tokens a window (default 256)")
    parser.add_argument("--seed", type=int, default=0, help="draws the windows (default 0)")
    texts.add_evaluation_text(parser)
    options.add_json(parser)


def compress_and_write(args: argparse.Namespace, compress: "Compress") -> None:
    """Compress every linear layer of the blocks; print errors and perplexity; write the model.

    Raises:
        ValueError, OSError: A file, option or layer does not fit; nothing is written then.
    """
    from labkit.compression.calibration import compress_layers
    from labkit.compression.statistics import HessianStats
    from labkit.model import huggingface
    from labkit.runtime.cache import atomic_path
    from labkit.runtime.progress import progress

    loaded = options.load_model(args)
    windows = _calibration(loaded, args)
    before = measure(loaded, args)
    layers = compress_layers(loaded.model, [windows], HessianStats, compress)
    total = 7 * loaded.config.num_layers
    reports = list(progress(layers, total=total, desc="compress", unit="layer"))
    after = measure(loaded, args)
    with atomic_path(args.out) as folder:
        huggingface.save_folder(loaded.model, loaded.tokenizer, folder)
    print(f"wrote {args.out}", file=sys.stderr)
    rows = [asdict(report) for report in reports]
    perplexity = {"perplexity_before": before, "perplexity_after": after, "ratio": after / before}
    if args.json:
        print(json.dumps({"out": str(args.out), **perplexity, "layers": rows}))
        return
    print_rows(rows, as_json=False)
    print()
    print_rows([perplexity], as_json=False)


def measure(loaded: "Loaded", args: argparse.Namespace) -> float:
    """Perplexity on the text that the arguments name."""
    return token_nats(loaded, args).perplexity


def _calibration(loaded: "Loaded", args: argparse.Namespace) -> "Tensor":
    import torch

    from labkit.compression.calibration import calibration_windows
    from labkit.runtime.seeding import generator

    if args.calibration_windows < 1:
        raise ValueError(f"--calibration-windows {args.calibration_windows} must be at least 1")
    text = (
        texts.documentation(held_out=False)
        if args.calibration is None
        else texts.read(args.calibration)
    )
    windows = calibration_windows(
        torch.tensor(loaded.tokenizer.encode(text)),
        length=min(args.length, loaded.config.max_length),
        count=args.calibration_windows,
        generator=generator(args.seed),
    )
    return windows.to(loaded.model.lm_head.weight.device)
