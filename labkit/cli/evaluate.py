"""`labkit evaluate`: perplexity or multiple choice, with intervals."""

import argparse
import math
from typing import TYPE_CHECKING

from labkit.cli import options, texts
from labkit.cli.report import print_rows

if TYPE_CHECKING:
    from labkit.evaluation.perplexity import PerplexityResult
    from labkit.model.zoo import Loaded

SUMMARY = "Measure a model: perplexity on a text, or accuracy on multiple-choice questions."
EXAMPLES = """\
examples:
  labkit evaluate smollm2-135m --text held_out.txt --window 512
  labkit evaluate smollm2-135m --task multiple-choice --count 100 --few-shot 2 --method text
  labkit evaluate smollm2-135m --adapter adapters/pydoc --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    options.add_model(parser, adapter=True)
    parser.add_argument(
        "--task", choices=("perplexity", "multiple-choice"), default="perplexity",
        help="default perplexity",
    )  # fmt: skip
    texts.add_evaluation_text(parser)
    parser.add_argument("--count", type=int, default=50, help="questions (default 50)")
    parser.add_argument("--method", choices=("letter", "text"), default="text", help="of scoring")
    parser.add_argument("--few-shot", type=int, default=0, help="solved examples (default 0)")
    parser.add_argument("--level", type=float, default=0.95, help="of intervals (default 0.95)")
    parser.add_argument("--seed", type=int, default=0, help="draws questions and resamples")
    options.add_json(parser)


def run(args: argparse.Namespace) -> None:
    """Print one row: the estimate between the ends of its interval."""
    if not 0 < args.level < 1:
        raise ValueError(f"--level {args.level} must lie between 0 and 1")
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed} must be at least 0")
    measure = _perplexity if args.task == "perplexity" else _multiple_choice
    print_rows([{"model": args.model, **measure(args)}], as_json=args.json)


def token_nats(loaded: "Loaded", args: argparse.Namespace) -> "PerplexityResult":
    """Losses of the tokens of the text that the arguments name.

    Raises:
        ValueError: The text or a window option does not fit.
    """
    import torch

    from labkit.evaluation.perplexity import perplexity

    if args.max_tokens < 2:
        raise ValueError(f"--max-tokens {args.max_tokens} must be at least 2")
    ids = loaded.tokenizer.encode(texts.evaluation_text(args))[: args.max_tokens]
    window = min(args.window, loaded.config.max_length)
    stride = args.stride or max(window // 2, 1)
    return perplexity(loaded.model, torch.tensor(ids), window=window, stride=stride)


def _perplexity(args: argparse.Namespace) -> dict[str, object]:
    """Perplexity; tokens hang together, so whole windows are what is resampled."""
    import numpy as np

    from labkit.evaluation.bootstrap import interval

    result = token_nats(options.load_model(args), args)
    count = max(2, result.tokens // args.window)
    means = [
        float(part.mean()) for part in np.array_split(result.token_nats.double().numpy(), count)
    ]
    spread = interval(means, level=args.level, rng=np.random.default_rng(args.seed))
    return {
        "tokens": result.tokens,
        "low": math.exp(spread.low),
        "perplexity": result.perplexity,
        "high": math.exp(spread.high),
        "level": args.level,
    }


def _multiple_choice(args: argparse.Namespace) -> dict[str, object]:
    import numpy as np

    from labkit.data import pydoc_corpus, questions
    from labkit.evaluation.bootstrap import interval
    from labkit.evaluation.multiple_choice import score

    if args.count < 2 or args.few_shot < 0:
        raise ValueError(
            f"--count {args.count} must be at least 2 and --few-shot {args.few_shot} at least 0"
        )
    train, held_out = pydoc_corpus.split(pydoc_corpus.functions())
    rng = np.random.default_rng(args.seed)
    items = questions.multiple_choice(held_out, count=args.count, rng=rng)
    examples = questions.multiple_choice(train, count=args.few_shot, rng=rng)
    loaded = options.load_model(args)
    result = score(loaded.model, loaded.tokenizer, items, method=args.method, few_shot=examples)
    spread = interval(result.correct, level=args.level, rng=rng)
    return {
        "items": len(items),
        "low": spread.low,
        "accuracy": result.accuracy,
        "high": spread.high,
        "level": args.level,
        "chance": 1 / len(items[0].choices),
    }
