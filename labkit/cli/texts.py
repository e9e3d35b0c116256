"""The texts that commands measure and calibrate on."""

import argparse
from pathlib import Path


def add_evaluation_text(parser: argparse.ArgumentParser) -> None:
    """--text, --wikitext and the windows of perplexity."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--text", type=Path, help="UTF-8 file to measure perplexity on")
    source.add_argument("--wikitext", type=Path, help="folder of WikiText-2; its test split")
    parser.add_argument("--max-tokens", type=int, default=4096, help="of that text (default 4096)")
    parser.add_argument("--window", type=int, default=256, help="tokens of context (default 256)")
    parser.add_argument("--stride", type=int, help="tokens between windows (default window / 2)")


def evaluation_text(args: argparse.Namespace) -> str:
    """The text to measure on; default: documentation of held-out functions of Python.

    Raises:
        OSError, ValueError: The file is absent, empty or not UTF-8.
    """
    if args.text is not None:
        return read(args.text)
    if args.wikitext is not None:
        from labkit.data.files import load_wikitext2

        return load_wikitext2(args.wikitext, "test")
    return documentation(held_out=True)


def documentation(*, held_out: bool) -> str:
    """Python's documentation, of the functions for training or of those held out."""
    from labkit.data import pydoc_corpus

    train, test = pydoc_corpus.split(pydoc_corpus.functions())
    return "\n\n".join(pydoc_corpus.as_text(test if held_out else train))


def read(path: Path) -> str:
    """A UTF-8 file that is not empty.

    Raises:
        OSError, ValueError: It is absent, empty or not UTF-8; the message names it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    if not text.strip():
        raise ValueError(f"{path} is empty")
    return text
