"""`labkit serve`: an OpenAI-compatible server."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.cli import options, serve_options
from labkit.runtime.errors import MissingDependencyError

if TYPE_CHECKING:
    from labkit.serving.backends.base import Backend

SUMMARY = "Serve a model and its adapters over OpenAI's API."
EXAMPLES = """\
examples:
  labkit serve smollm2-135m
  labkit serve smollm2-135m --adapter pydoc=adapters/pydoc --adapters-root adapters --port 8000
  labkit serve smollm2-135m --weights int8 --max-batch 64 --api-key-env LABKIT_API_KEY
  labkit serve models/mine --backend vllm --vllm-python .venv-vllm/bin/python
  curl localhost:8000/v1/completions -H 'Content-Type: application/json' \\
       -d '{"model": "pydoc", "prompt": "Hello", "max_tokens": 16}'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    options.add_model(parser)
    parser.add_argument("--name", help="the base model's name in requests (default: MODEL)")
    parser.add_argument("--host", default="127.0.0.1", help="default 127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="default 8000")
    parser.add_argument(
        "--backend", choices=("engine", "transformers", "vllm"), default="engine",
        help="labkit's engine (default), transformers, or a vLLM server that is managed",
    )  # fmt: skip
    parser.add_argument(
        "--vllm-python", type=Path, metavar="FILE",
        help="the interpreter that has vLLM (default: this one)",
    )  # fmt: skip
    serve_options.add_engine(parser)
    serve_options.add_adapters(parser)
    serve_options.add_limits(parser)


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
    config = serve_options.serving_config(args)
    backend = _backend(args, adapters)
    logging.basicConfig(format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("labkit.serving").setLevel(logging.INFO)
    server.serve(backend, config, host=args.host, port=args.port)


def _backend(args: argparse.Namespace, adapters: dict[str, Path]) -> "Backend":
    from labkit.serving.backends import build

    serve_options.refuse_ignored(args)
    mounted = max(args.max_adapters, len(adapters))
    if args.backend == "vllm":
        return build.vllm_backend(
            args.model,
            adapters,
            base_name=args.name,
            python=args.vllm_python,
            max_adapters=mounted,
            max_rank=args.max_rank,
            max_batch=args.max_batch,
        )
    if args.backend == "transformers":
        return build.transformers_backend(
            args.model,
            adapters,
            base_name=args.name,
            dtype=args.dtype,
            device=args.device,
            max_batch=args.max_batch,
            max_adapters=mounted,
            max_rank=args.max_rank,
            structured=args.structured,
        )
    loaded = options.load_model(argparse.Namespace(**{**vars(args), "adapter": None}))
    return build.engine_backend(
        loaded,
        adapters,
        base_name=args.name,
        engine=serve_options.engine_config(args),
        structured=args.structured,
    )


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
