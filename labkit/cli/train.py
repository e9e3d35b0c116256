"""`labkit train`: tuning on questions and answers, by any method whose result has a file."""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.cli import options, spreading, train_options
from labkit.cli.steps import show_steps
from labkit.cli.train_options import DEFAULT_LR

if TYPE_CHECKING:
    from labkit.data.batch import Example
    from labkit.data.loader import DataLoader
    from labkit.model.tokenizer import Tokenizer
    from labkit.model.zoo import Loaded
    from labkit.training.config import TrainConfig
    from labkit.training.loop import StepRecord

SUMMARY = "Tune a model on questions and answers: LoRA and other methods, or all weights."
EXAMPLES = """\
examples:
  labkit train smollm2-135m --out adapters/pydoc --steps 60
  labkit train smollm2-135m --method qlora --data alpaca.json --track --out adapters/alpaca
  labkit train smollm2-135m --method ia3 --steps 200 --out adapters/ia3
  labkit train mini --method full --lr 1e-4 --out models/mini-pydoc
  labkit train mini --method full --strategy zero2 --nproc 2 --checkpoint run --out models/mine
  labkit train --config run.toml --steps 200

a file given as --config sets options by their names with underscores (model = "mini",
out = "adapters/mine", batch_size = 4); what stands on the command line goes before it
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    needed = options.add_model(parser), options.add_out(parser)
    add = parser.add_argument
    add("--config", type=Path, action=options.InPlaceOf, of=needed, help="TOML file of options")
    add("--method", choices=sorted(DEFAULT_LR), help="default lora")
    add("--data", help="pydoc (default) or an Alpaca-style .json or .jsonl file")
    add("--rank", type=int, help="of LoRA (default 8)")
    add("--alpha", type=float, help="of LoRA (default 2 * rank)")
    add("--dropout", type=float, help="of LoRA's input (default 0)")
    add("--targets", help="layers, by comma, or all-linear (default)")
    add("--rslora", action="store_true", help="scale by alpha / sqrt(rank)")
    add("--steps", type=int, help="default 60")
    add("--lr", type=float, help="peak rate (default: usual for the method)")
    add("--warmup", type=int, help="steps (default a tenth)")
    add("--min-lr-ratio", type=float, help="of the last step to the peak rate (default 0.1)")
    add("--weight-decay", type=float, help="of matrices (default 0)")
    add("--clip-norm", type=float, help="largest global gradient norm (default 1)")
    add("--batch-size", type=int, help="rows a micro-batch, packed if the method can (default 2)")
    add("--accumulation", type=int, help="micro-batches a step (default 1)")
    add("--length", type=int, help="tokens a packed row (default 256)")
    add("--seed", type=int, help="default 0")
    spreading.add_arguments(parser)
    add("--checkpoint", type=Path, help="folder for the run's checkpoint (default: none is kept)")
    add("--checkpoint-every", type=int, help="steps (default: one checkpoint, at the end)")
    add("--resume", action="store_true", help="go on from the checkpoint, under any strategy")
    add("--log-every", type=int, help="steps between rows (default 10)")
    add("--track", action="store_true", help="log to MLflow (mlruns.db here)")
    add("--run-name", help="in MLflow (default: the method and the model)")
    options.add_json(parser)
    parser.set_defaults(**dict.fromkeys(train_options.FIELDS))  # None: not given


def run(args: argparse.Namespace) -> None:
    """Tune, then write the adapter (or the whole model) at once."""
    args = train_options.resolve(args)
    if args.strategy != "none":
        args.device = "cpu"
    options.check_out(args)
    config, settings = _train_config(args), _settings(args)
    chats = _chats(args.data)
    loaded = options.load_model(args, dtype=_weights_dtype(args))
    examples = _examples(loaded.tokenizer, chats, min(args.length, loaded.config.max_length))
    batches = _batches(loaded, examples, args)
    _write(loaded, _records(loaded, batches, args, config, settings), args, config, settings)


def _records(
    loaded: "Loaded",
    batches: "DataLoader",
    args: argparse.Namespace,
    config: "TrainConfig",
    settings: Any,
) -> "Iterator[StepRecord]":
    """Put the method on the model and train, in this process or in several."""
    from labkit.runtime.seeding import generator
    from labkit.training import tune

    kept = {"checkpoint_dir": args.checkpoint, "resume": args.resume}
    if args.strategy == "none":
        return tune.tune(loaded.model, args.method, batches, config, settings=settings, **kept)
    tune.method(args.method).put(loaded.model, settings, generator(args.seed))
    return spreading.trainer(args.strategy, args.nproc)(loaded.model, batches, config, **kept)


def _write(
    loaded: "Loaded",
    records: "Iterator[StepRecord]",
    args: argparse.Namespace,
    config: "TrainConfig",
    settings: Any,
) -> None:
    """Take the steps, then write what they made."""
    from labkit.model import huggingface
    from labkit.runtime.cache import atomic_path
    from labkit.training.tracking import tracked
    from labkit.tuning import adapter_files

    if args.track:
        name = args.run_name or f"{args.method} {args.model}"
        tuning = {} if settings is None else asdict(settings)
        spread = {"strategy": args.strategy, "nproc": args.nproc}
        said = {"model": args.model, "method": args.method, **spread}
        params = {**said, **asdict(config), **tuning}
        records = tracked(records, run_name=name, params=params)
    show_steps(records, total=args.steps, log_every=args.log_every, as_json=args.json)
    with atomic_path(args.out) as folder:
        if args.method == "full":
            huggingface.save_folder(loaded.model, loaded.tokenizer, folder)
        else:
            stored = settings.lora if args.method == "qlora" else settings
            adapter_files.save(loaded.model, folder, stored, args.model)
    print(f"wrote {args.out}", file=sys.stderr)


def _batches(loaded: "Loaded", examples: "list[Example]", args: argparse.Namespace) -> "DataLoader":
    from labkit.data.loader import DataLoader
    from labkit.training.tune import method

    return DataLoader(
        examples=examples,
        length=min(args.length, loaded.config.max_length) if method(args.method).packs else None,
        pad_id=loaded.tokenizer.pad_id,
        batch_size=args.batch_size,
        seed=args.seed,
    )


def _train_config(args: argparse.Namespace) -> "TrainConfig":
    from labkit.runtime.device import choose_device, choose_dtype
    from labkit.training.config import TrainConfig

    # Full tuning keeps float32 weights, so that small steps are not rounded away, and lets autocast
    # choose the products' format; under an adapter the frozen base has that format itself.
    products = choose_dtype(args.dtype, choose_device(args.device))
    autocast = args.method == "full" and str(products) == "torch.bfloat16"
    return TrainConfig(
        steps=args.steps,
        lr=DEFAULT_LR[args.method] if args.lr is None else args.lr,
        warmup_steps=args.steps // 10 if args.warmup is None else args.warmup,
        min_lr_ratio=args.min_lr_ratio,
        weight_decay=args.weight_decay,
        clip_norm=args.clip_norm,
        accumulation=args.accumulation,
        dtype="bfloat16" if autocast else "float32",
        seed=args.seed,
        checkpoint_every=args.checkpoint_every,
    )


def _weights_dtype(args: argparse.Namespace) -> str:
    return "float32" if args.method == "full" else str(args.dtype)


def _settings(args: argparse.Namespace) -> Any:
    """The method's options: its usual ones, LoRA's as the command says."""
    from labkit.training.tune import method
    from labkit.tuning.lora import LoraConfig
    from labkit.tuning.qlora import QloraConfig
    from labkit.tuning.targets import ALL_LINEAR

    if args.method not in train_options.TAKES_LORA:
        return method(args.method).settings(args.steps)
    targets = args.targets if args.targets == ALL_LINEAR else tuple(args.targets.split(","))
    config = LoraConfig(
        rank=args.rank,
        alpha=2.0 * args.rank if args.alpha is None else args.alpha,
        dropout=args.dropout,
        target_modules=targets,
        use_rslora=args.rslora,
        use_dora=args.method == "dora",
    )
    return QloraConfig(lora=config) if args.method == "qlora" else config


def _chats(data: str) -> list[list[dict[str, str]]]:
    if data != "pydoc":
        from labkit.data.files import load_alpaca

        return load_alpaca(Path(data))
    from labkit.data import pydoc_corpus, questions

    train, _ = pydoc_corpus.split(pydoc_corpus.functions())
    return questions.question_answers(train)


def _examples(
    tokenizer: "Tokenizer", chats: list[list[dict[str, str]]], length: int
) -> "list[Example]":
    """Encoded chats that fit into a row; how many do not is said."""
    from labkit.data.chat import encode_chat

    examples = [encode_chat(tokenizer, chat) for chat in chats]
    fitting = [example for example in examples if len(example.ids) <= length]
    if not fitting:
        raise ValueError(f"none of {len(examples)} examples fits into --length {length} tokens")
    if left_out := len(examples) - len(fitting):
        print(f"{left_out} of {len(examples)} examples exceed {length} tokens", file=sys.stderr)
    return fitting
