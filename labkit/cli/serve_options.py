"""The options of `labkit serve`, and the configurations that they stand for."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labkit.inference.engine_config import EngineConfig
    from labkit.serving.config import ServingConfig


def add_engine(parser: argparse.ArgumentParser) -> None:
    """What runs at once, and on what."""
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--weights", choices=("model", "bfloat16", "int8"), default="model",
        help="the model's own modules (default), or packed weights for the native kernels",
    )  # fmt: skip
    group.add_argument("--max-batch", type=int, default=32, help="texts at once; default 32")
    group.add_argument("--token-budget", type=int, default=512, help="tokens a step; default 512")
    group.add_argument("--pages", type=int, help="pages of 16 tokens in the KV cache")
    group.add_argument("--no-prefix-cache", action="store_true", help="share no prefixes")
    group.add_argument(
        "--structured", choices=("hand", "llguidance"), default="hand",
        help="who compiles JSON Schemas and regular expressions",
    )  # fmt: skip


def add_adapters(parser: argparse.ArgumentParser) -> None:
    """Adapters at the start and later."""
    group = parser.add_argument_group("adapters")
    group.add_argument(
        "--adapter", action="append", default=[], metavar="NAME=PATH",
        help="PEFT adapter folder and its name in requests; repeatable",
    )  # fmt: skip
    group.add_argument(
        "--adapters-root", type=Path, metavar="FOLDER",
        help="adapters under it may be loaded while serving, by path or by name",
    )  # fmt: skip
    group.add_argument("--max-adapters", type=int, default=8, help="mounted at once; default 8")
    group.add_argument("--max-rank", type=int, default=64, help="highest LoRA rank; default 64")


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Who may come in, and for how long."""
    group = parser.add_argument_group("limits")
    group.add_argument("--max-waiting", type=int, default=256, help="queue before 429; default 256")
    group.add_argument(
        "--request-timeout", type=float, default=600.0, metavar="S", help="default 600; 0: none"
    )
    group.add_argument(
        "--grace", type=float, default=30.0, metavar="S",
        help="how long requests may go on after SIGTERM; default 30",
    )  # fmt: skip
    group.add_argument(
        "--max-body-bytes", type=int, default=2**20, help="of a request; default 1048576"
    )
    keys = group.add_mutually_exclusive_group()
    keys.add_argument("--api-key-env", metavar="VARIABLE", help="holds the API key to ask for")
    keys.add_argument("--api-key-file", type=Path, metavar="FILE", help="one API key a line")


def refuse_ignored(args: argparse.Namespace) -> None:
    """Refuse options that another backend has no use for.

    Raises:
        ValueError: One was given.
    """
    ours = {
        "--weights": args.weights != "model",
        "--token-budget": args.token_budget != 512,
        "--pages": args.pages is not None,
        "--no-prefix-cache": args.no_prefix_cache,
    }
    vllms = {"--vllm-python": args.vllm_python is not None}
    outside = {
        "--structured": args.structured != "hand",
        "--dtype": args.dtype != "auto",
        "--device": args.device != "auto",
    }
    ignored = {"engine": vllms, "transformers": ours | vllms, "vllm": ours | outside}[args.backend]
    if given := [name for name, is_given in ignored.items() if is_given]:
        raise ValueError(f"{', '.join(given)} means nothing to --backend {args.backend}")


def engine_config(args: argparse.Namespace) -> "EngineConfig":
    """The engine's sizes."""
    from labkit.inference.engine_config import EngineConfig

    return EngineConfig(
        max_batch=args.max_batch,
        token_budget=max(args.token_budget, args.max_batch),
        num_pages=args.pages,
        prefix_cache=not args.no_prefix_cache,
        weights=args.weights,
        max_adapters=max(args.max_adapters, len(args.adapter)),
        max_rank=args.max_rank,
    )


def serving_config(args: argparse.Namespace) -> "ServingConfig":
    """The gateway's limits.

    Raises:
        ValueError: A key is asked for and not there, or the adapters' root is no folder.
    """
    from labkit.serving.config import ServingConfig

    root: Path | None = args.adapters_root
    if root is not None and not root.is_dir():
        raise ValueError(f"--adapters-root {root} is no folder")
    return ServingConfig(
        max_waiting=args.max_waiting,
        request_timeout_s=args.request_timeout or None,
        grace_s=args.grace,
        max_body_bytes=args.max_body_bytes,
        api_keys=api_keys(args),
        adapters_root=root,
    )


def api_keys(args: argparse.Namespace) -> tuple[str, ...]:
    """From the environment or a file; never from the command line, which others can read.

    Raises:
        ValueError: The variable is not set, or the file holds no key.
        OSError: The file cannot be read.
    """
    if args.api_key_env is not None:
        key = os.environ.get(args.api_key_env, "")
        if not key:
            raise ValueError(f"--api-key-env {args.api_key_env}: the variable is not set")
        return (key,)
    if args.api_key_file is None:
        return ()
    lines = args.api_key_file.read_text(encoding="utf-8").split("\n")
    keys = tuple(line.strip() for line in lines if line.strip())
    if not keys:
        raise ValueError(f"--api-key-file {args.api_key_file} holds no key")
    return keys
