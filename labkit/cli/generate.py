"""`labkit generate`: text from a prompt, streamed."""

import argparse
import sys
from typing import TYPE_CHECKING

from labkit.cli import options
from labkit.cli.report import print_rows

if TYPE_CHECKING:
    from labkit.inference.generator import Generator
    from labkit.inference.sampling import SamplingConfig

SUMMARY = "Generate text from prompts."
EXAMPLES = """\
examples:
  labkit generate smollm2-135m "Once upon a time" --temperature 0.8 --top-p 0.95 --seed 7
  labkit generate smollm2-135m --chat "What does os.path.join do?" --adapter adapters/pydoc
  labkit generate --checkpoint adapters/pydoc --prompt "os.path.join" --top-k 40 --top-p 0.9
  echo "def add(a, b):" | labkit generate smollm2-135m - --stop "\\n\\n" --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    model = options.add_model(parser, adapter=True)
    add = parser.add_argument
    words = add("words", metavar="PROMPT", nargs="+", help="one or more; - reads stdin")
    add(
        "--checkpoint", metavar="FOLDER", action=options.InPlaceOf, of=(model,),
        help="what labkit train wrote, in place of MODEL: a model, or an adapter with its base",
    )  # fmt: skip
    add(
        "--prompt", metavar="TEXT", action=options.InPlaceOf, of=(words,),
        help="one prompt, in place of PROMPT",
    )  # fmt: skip
    add("--chat", action="store_true", help="each prompt is a user's question")
    options.add_sampling(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Stream one prompt's text, or print the table of several."""
    from labkit.inference.sampling import SamplingConfig

    config = SamplingConfig(
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        max_new_tokens=args.max_new_tokens,
        stop=tuple(stop.replace("\\n", "\n") for stop in args.stop),
        seed=args.seed,
    )
    prompts = _prompts(args)
    generator = _generator(args, config)
    if args.chat:
        apply_chat = generator.tokenizer.apply_chat
        prompts = [apply_chat([{"role": "user", "content": prompt}]) for prompt in prompts]
    if len(prompts) == 1 and not args.json:
        for piece in generator.stream(prompts[0]):
            print(piece, end="", flush=True)
        print()
        return
    texts = generator.generate(prompts)
    rows = [
        {
            "prompt_tokens": text.prompt_tokens,
            "new_tokens": len(text.ids),
            "finish_reason": text.finish_reason,
            "text": text.text if args.json else repr(text.text),
        }
        for text in texts
    ]
    print_rows(rows, as_json=args.json)


def _prompts(args: argparse.Namespace) -> list[str]:
    if args.words and args.prompt is not None:
        raise ValueError("--prompt stands in place of PROMPT: give all prompts one way")
    words = args.words if args.prompt is None else [args.prompt]
    return [sys.stdin.read() if word == "-" else word for word in words]


def _generator(args: argparse.Namespace, config: "SamplingConfig") -> "Generator":
    from labkit.inference.generator import Generator

    if args.checkpoint is None:
        loaded = options.load_model(args)
        return Generator(loaded.model, loaded.tokenizer, config)
    if args.model is not None or args.adapter is not None:
        raise ValueError(
            "--checkpoint stands in place of MODEL and --adapter: give one of them, "
            "and the prompt as --prompt"
        )
    return Generator.load(args.checkpoint, config, dtype=args.dtype, device=args.device)
