"""`labkit serve`: an OpenAI-compatible server."""

import argparse
from pathlib import Path

from labkit.cli import options
from labkit.runtime.errors import MissingDependencyError

SUMMARY = "Serve a model and its adapters over OpenAI's API."
EXAMPLES = """\
examples:
  labkit serve smollm2-135m
  labkit serve smollm2-135m --adapter pydoc=adapters/pydoc --adapter chat=adapters/chat --port 8000
  curl localhost:8000/v1/completions -H 'Content-Type: application/json' \\
       -d '{"model": "pydoc", "prompt": "Hello", "max_tokens": 16}'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    options.add_model(parser)
    parser.add_argument(
        "--adapter", action="append", default=[], metavar="NAME=PATH",
        help="PEFT adapter folder and its name in requests; repeatable",
    )  # fmt: skip
    parser.add_argument("--name", help="the base model's name in requests (default: MODEL)")
    parser.add_argument("--host", default="127.0.0.1", help="default 127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="default 8000")


def run(args: argparse.Namespace) -> None:
    """Load everything, then serve until interrupted."""
    adapters = parse_adapters(args.adapter)
    if not 0 <= args.port <= 65535:
        raise ValueError(f"--port {args.port} must lie in 0..65535")
    try:
        from labkit.serving import server
    except ImportError as error:
        raise MissingDependencyError(
            f"serving needs {error.name}: pip install 'llm-engineering-lab[serve]'"
        ) from error
    loaded = options.load_model(argparse.Namespace(**{**vars(args), "adapter": None}))
    server.serve(loaded, adapters, host=args.host, port=args.port, base_name=args.name)


def parse_adapters(pairs: list[str]) -> dict[str, Path]:
    """NAME=PATH arguments as a mapping.

    Raises:
        ValueError: One has another form, or a name comes twice.
    """
    adapters: dict[str, Path] = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not (name and equals and path):
            raise ValueError(f"--adapter {pair!r} must read NAME=PATH")
        if name in adapters:
            raise ValueError(f"--adapter {name!r} is given twice: each needs its own name")
        adapters[name] = Path(path)
    return adapters
