"""`labkit generate`: text from a prompt, streamed."""

import argparse
import sys

from labkit.cli import options
from labkit.cli.report import print_rows

SUMMARY = "Generate text from prompts."
EXAMPLES = """\
examples:
  labkit generate smollm2-135m "Once upon a time" --temperature 0.8 --top-p 0.95 --seed 7
  labkit generate smollm2-135m --chat "What does os.path.join do?" --adapter adapters/pydoc
  echo "def add(a, b):" | labkit generate smollm2-135m - --stop "\\n\\n" --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    options.add_model(parser, adapter=True)
    parser.add_argument("prompt", metavar="PROMPT", nargs="+", help="one or more; - reads stdin")
    parser.add_argument("--chat", action="store_true", help="each prompt is a user's question")
    options.add_sampling(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Stream one prompt's text, or print the table of several."""
    from labkit.inference import generate
    from labkit.inference.sampling import SamplingConfig

    config = SamplingConfig(
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        max_new_tokens=args.max_new_tokens,
        stop=tuple(stop.replace("\\n", "\n") for stop in args.stop),
        seed=args.seed,
    )
    prompts = [sys.stdin.read() if prompt == "-" else prompt for prompt in args.prompt]
    loaded = options.load_model(args)
    model, tokenizer = loaded.model, loaded.tokenizer
    if args.chat:
        prompts = [tokenizer.apply_chat([{"role": "user", "content": p}]) for p in prompts]
    if len(prompts) == 1 and not args.json:
        for piece in generate.stream(model, tokenizer, prompts[0], config):
            print(piece, end="", flush=True)
        print()
        return
    texts = generate.generate(model, tokenizer, prompts, config)
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
