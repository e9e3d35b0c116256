"""The data of `mini`: Python documentation, chats made from it, and generated tasks."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from labkit.data import bpe, doc_text, pydoc_corpus, questions, synthetic
from labkit.model.tokenizer import CHATML_TEMPLATE, Tokenizer

END_OF_TEXT, START_OF_TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, START_OF_TURN, END_OF_TURN)
OWN = "this course (Apache-2.0)"
PYTHON = "Python (PSF-2.0)"
LICENCES = {
    "numpy": "NumPy (BSD-3-Clause)",
    "scipy": "SciPy (BSD-3-Clause)",
    "torch": "PyTorch (BSD-3-Clause)",
    "transformers": "Transformers (Apache-2.0)",
}

Chat = list[dict[str, str]]
Document = str | Chat


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Documents of one origin, and those kept for measuring.

    Attributes:
        name: In the data card.
        licence: Origin and licence, in the data card.
        share: Weight in the mix: of the batch rows, relative to the other sources.
        train: Plain texts or chats.
        held_out: Never trained on, nor seen by the tokenizer's training.
    """

    name: str
    licence: str
    share: float
    train: Sequence[Document]
    held_out: Sequence[Document]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Sizes of the mix.

    Attributes:
        length: Tokens in a row; longer documents are cut into pieces.
        libraries: Packages whose documentation is read, beside Python's own.
        num_people: Invented people whose facts are taught.
        num_tasks: Generated arithmetic and list tasks, each.
        shares: Weight of every source by name.
        max_documents: A source keeps this many in either part; None keeps all.
        seed: Of the generated data and of the order.
    """

    length: int
    libraries: tuple[str, ...]
    num_people: int
    num_tasks: int
    shares: dict[str, float]
    max_documents: int | None = None
    seed: int = 0


def sources(config: DataConfig) -> list[Source]:
    """Every source of the mix, split, without documents that the held-out part repeats.

    Args:
        config: Sizes and shares.

    Returns:
        Sources in a fixed order; equal for equal installed packages and seed.
    """
    rng = np.random.default_rng(config.seed)
    return _without_repeats([*_documentation(config), *_generated(config, rng)])


def corpus_hash(corpus: Sequence[Source]) -> str:
    """SHA-256 over every training and held-out document, to tell whether two runs saw the same."""
    digest = hashlib.sha256()
    for source in corpus:
        for document in (*source.train, *source.held_out):
            digest.update(json.dumps([source.name, document]).encode())
    return digest.hexdigest()


def train_tokenizer(corpus: Sequence[Source], *, vocab_size: int, max_bytes: int) -> Tokenizer:
    """Our byte-level BPE with ChatML's special tokens, trained on the training documents only.

    Args:
        corpus: The sources.
        vocab_size: V, special tokens included.
        max_bytes: Of text looked at per source, so that the largest does not take all merges.

    Returns:
        The tokenizer: a turn's end is the model's end, the end of text is the padding.
    """
    texts = [text for source in corpus for text in _first_bytes(source.train, max_bytes)]
    trained = bpe.train_bpe(texts, vocab_size=vocab_size, special_tokens=SPECIAL_TOKENS)
    return Tokenizer(
        trained.to_tokenizers(),
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        chat_template=CHATML_TEMPLATE,
    )


def plain_texts(documents: Sequence[Document]) -> list[str]:
    """What the documents say: of a chat, its turns without the markup."""
    return [
        document if isinstance(document, str) else "\n".join(turn["content"] for turn in document)
        for document in documents
    ]


def _documentation(config: DataConfig) -> list[Source]:
    """Function documentation by origin, the language reference, and chats about the functions.

    Python's own functions are split among themselves, as everywhere in the course; what reads like
    a held-out one of them, or quotes it, is dropped everywhere else.
    """
    python, held_python = pydoc_corpus.split(pydoc_corpus.functions())
    held_summaries = {doc_text.normalised(function.summary) for function in held_python}
    quotes = _quoting(held_summaries)
    python = [function for function in python if not quotes(function.text)]
    chats = (
        questions.question_answers(python, phrasings=3),
        questions.question_answers(held_python),
    )
    topics = [_without_paragraphs(text, quotes) for text in pydoc_corpus.topics()]
    found = [
        _source(config, "python", PYTHON, _texts(python), _texts(held_python)),
        _source(config, "topics", PYTHON, *_split_by_hash(topics)),
        _source(config, "questions", PYTHON, *chats),
    ]
    for name in config.libraries:
        train, held_out = pydoc_corpus.split(pydoc_corpus.functions((name,)))
        train = [f for f in train if doc_text.normalised(f.summary) not in held_summaries]
        found.append(_source(config, name, LICENCES[name], _texts(train), _texts(held_out)))
    return found


def _texts(functions: Sequence[pydoc_corpus.FunctionDoc]) -> list[Document]:
    return list(pydoc_corpus.as_text(functions))


def _quoting(summaries: set[str]) -> Callable[[str], bool]:
    """Whether a text holds one of the summaries (of five words or more), however it is set."""
    long = sorted(summary for summary in summaries if len(summary.split()) >= 5)
    pattern = re.compile("|".join(map(re.escape, long)))
    return lambda text: pattern.search(doc_text.normalised(text)) is not None


def _without_paragraphs(text: str, quotes: Callable[[str], bool]) -> Document:
    """The text less the paragraphs that quote, alone or together with the one before."""
    kept: list[str] = []
    for paragraph in text.split("\n\n"):
        if quotes("\n\n".join([*kept[-1:], paragraph])):
            continue
        kept.append(paragraph)
    return "\n\n".join(kept)


def _generated(config: DataConfig, rng: np.random.Generator) -> list[Source]:
    people = synthetic.people(config.num_people, rng)
    taught: list[Document] = [
        *synthetic.fact_statements(people),
        *synthetic.as_chats(synthetic.fact_tasks(people)),
    ]
    asked = synthetic.as_chats(synthetic.fact_tasks(people, held_out=True))
    arithmetic = synthetic.arithmetic(config.num_tasks, rng, largest=20)
    lists = synthetic.list_tasks(config.num_tasks, rng)
    return [
        _source(config, "facts", OWN, taught, asked),
        _source(config, "arithmetic", OWN, *_split_by_hash(synthetic.as_chats(arithmetic))),
        _source(config, "lists", OWN, *_split_by_hash(synthetic.as_chats(lists))),
    ]


def _source(
    config: DataConfig,
    name: str,
    licence: str,
    train: Sequence[Document],
    held_out: Sequence[Document],
) -> Source:
    if name not in config.shares:
        raise ValueError(f"shares={config.shares} must name the source {name!r}")
    most = config.max_documents
    return Source(
        name=name,
        licence=licence,
        share=config.shares[name],
        train=train[:most],
        held_out=held_out[:most],
    )


def _split_by_hash(documents: Sequence[Document]) -> tuple[list[Document], list[Document]]:
    """A tenth of the different documents held out, whichever order they come in."""
    train: list[Document] = []
    held_out: list[Document] = []
    for document in documents:
        digest = hashlib.sha256(json.dumps(document).encode()).digest()
        (held_out if digest[0] % 10 == 0 else train).append(document)
    return train, held_out


def _without_repeats(found: Sequence[Source]) -> list[Source]:
    """Each document once, and in training only what no source holds out as well."""
    seen = {json.dumps(document) for source in found for document in source.held_out}
    cleaned = []
    for source in found:
        held_out = {json.dumps(document): document for document in source.held_out}
        train = {json.dumps(document): document for document in source.train}
        kept = [document for key, document in train.items() if key not in seen]
        cleaned.append(replace(source, train=kept, held_out=list(held_out.values())))
        seen |= train.keys()
    return cleaned


def _first_bytes(documents: Sequence[Document], max_bytes: int) -> Iterator[str]:
    """Evenly spaced documents up to `max_bytes` of text."""
    texts = plain_texts(documents)
    total = sum(map(len, texts))
    stride = max(1, -(-total // max_bytes))
    yield from texts[::stride]
