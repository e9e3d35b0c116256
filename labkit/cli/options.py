"""Arguments that several commands share, and what they stand for."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labkit.model.zoo import Loaded

MODEL_HELP = "smollm2-135m, mini, a folder in Hugging Face's layout, or a hub id"


class InPlaceOf(argparse.Action):
    """An option that makes others unnecessary which are required without it.

    Args:
        of: those arguments, as `add_argument` returned them.
    """

    def __init__(self, *args: Any, of: Sequence[argparse.Action], **options: Any) -> None:
        super().__init__(*args, **options)
        self.of = of

    def __call__(
        self, parser: object, namespace: argparse.Namespace, values: Any, option: object = None
    ) -> None:
        """Store the value; parsers are made anew for every command line."""
        setattr(namespace, self.dest, values)
        for argument in self.of:
            argument.required = False


def add_model(parser: argparse.ArgumentParser, *, adapter: bool = False) -> argparse.Action:
    """MODEL, --dtype and --device, and --adapter where one may sit on the model; returns MODEL."""
    model = parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--dtype", default="auto", help="float32, bfloat16, float16 or auto (default)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    if adapter:
        parser.add_argument("--adapter", type=Path, help="PEFT adapter folder to put on the model")
    return model


def load_model(args: argparse.Namespace, *, dtype: str | None = None) -> "Loaded":
    """The model that the arguments name, with its adapter.

    Raises:
        ValueError, OSError: As `zoo.load` and `adapter_files.load`.
    """
    from labkit.model import zoo

    loaded = zoo.load(args.model, dtype=dtype or args.dtype, device=args.device)
    if getattr(args, "adapter", None) is not None:
        from labkit.tuning import adapter_files

        adapter_files.load(loaded.model, args.adapter)
    return loaded


def add_json(parser: argparse.ArgumentParser) -> None:
    """--json: one JSON document on stdout instead of a table."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def add_out(parser: argparse.ArgumentParser) -> argparse.Action:
    """--out and --overwrite; returns --out."""
    out = parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that exists")
    return out


def check_out(args: argparse.Namespace) -> None:
    """Refuse an output folder that holds something, before any work is done.

    Raises:
        FileExistsError: It does, and --overwrite was not given; or it is no folder of a model or
            adapter, which replacing it would delete.
        NotADirectoryError: It is a file.
    """
    out: Path = args.out
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out {out} is a file: give a folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not args.overwrite:
        raise FileExistsError(f"--out {out} is not empty: give another folder or --overwrite")
    if not any((out / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise FileExistsError(f"--out {out} holds no model or adapter: it is not replaced")


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Fields of `SamplingConfig`."""
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--top-k", type=int, help="keep the k likeliest tokens")
    parser.add_argument("--top-p", type=float, help="keep the likeliest tokens up to this mass")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="default 64")
    parser.add_argument("--stop", action="append", default=[], help="ends the text; repeatable")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
