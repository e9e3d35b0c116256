"""`labkit pretrain`: make a small model from nothing."""

import argparse
import sys
from pathlib import Path

from labkit.cli import options, spreading
from labkit.cli.steps import show_steps

SUMMARY = "Pretrain a small model by a recipe."
EXAMPLES = """\
examples:
  labkit pretrain --preset smoke --out /tmp/smoke
  labkit pretrain --preset mini --out datasets/mini --resume
  labkit pretrain --preset smoke --strategy zero3 --nproc 2 --out /tmp/smoke
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--preset", default="mini", help="recipe: mini (default) or smoke")
    parser.add_argument("--out", type=Path, help="folder to write (default: where 'mini' is found)")
    parser.add_argument("--overwrite", action="store_true", help="replace a model that is there")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    spreading.add_arguments(parser)
    parser.set_defaults(strategy="none", nproc=1)
    parser.add_argument("--log-every", type=int, default=50, help="steps between rows")
    options.add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Run the recipe; the folder appears when it is done."""
    from labkit.model import zoo
    from labkit.training import pretrain

    plan = pretrain.recipe(args.preset)
    spreading.check(args.strategy, args.nproc, args.device)
    device = args.device if args.strategy == "none" else "cpu"
    train = spreading.trainer(args.strategy, args.nproc)
    checkout, cached = zoo.mini_folders()
    out = args.out or (checkout if checkout.parent.is_dir() else cached)
    if args.out is None and args.preset != "mini":
        raise ValueError(f"--preset {args.preset} needs --out: only mini has a place of its own")
    if (out / "config.json").exists() and not args.overwrite:
        raise FileExistsError(f"{out} holds a model: give another --out or --overwrite")
    records = pretrain.run(plan, out, resume=args.resume, device=device, train=train)
    show_steps(records, total=plan.train.steps, log_every=args.log_every, as_json=args.json)
    print(f"wrote {out}", file=sys.stderr)
