"""The data of `mini`: Python documentation, chats made from it, and generated tasks."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from labkit.data import bpe, doc_text, packing, pydoc_corpus, questions, synthetic
from labkit.data.batch import TokenBatch, windows
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
        seed: Of the generated data and of the order.
    """

    length: int
    libraries: tuple[str, ...]
    num_people: int
    num_tasks: int
    shares: dict[str, float] = field(default_factory=dict)
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


def text_of(document: Document, tokenizer: Tokenizer) -> str:
    """A plain text with the end-of-text token, or a chat as its template writes it."""
    if isinstance(document, str):
        return document + END_OF_TEXT
    return tokenizer.apply_chat(document, add_generation_prompt=False)


def packed(documents: Sequence[Document], tokenizer: Tokenizer, length: int) -> list[TokenBatch]:
    """Rows of `length` tokens in which no document sees another; every token is learnt.

    Documents longer than a row are cut into pieces.
    """
    pieces = [
        piece
        for document in documents
        for piece in windows(tokenizer.encode(text_of(document, tokenizer)), length=length)
    ]
    return packing.pack(pieces, length=length, pad_id=tokenizer.pad_id)


def mixed_batches(
    rows: Sequence[Sequence[TokenBatch]],
    shares: Sequence[float],
    *,
    batch_size: int,
    rng: np.random.Generator,
) -> Iterator[TokenBatch]:
    """Endless batches whose rows are drawn from the sources by their shares.

    Args:
        rows: The packed rows of each source.
        shares: Weight of each source.
        batch_size: Rows in a batch.
        rng: Fixes the whole order. Each source is gone through in a new order every time round.

    Yields:
        Batches of `batch_size` rows.
    """
    weights = np.asarray(shares, dtype=np.float64)
    weights /= weights.sum()
    orders = [_shuffled_forever(source, rng) for source in rows]
    while True:
        chosen = rng.choice(len(rows), size=batch_size, p=weights)
        yield packing.stack([next(orders[source]) for source in chosen])


def _documentation(config: DataConfig) -> list[Source]:
    """Function documentation by origin, the language reference, and chats about the functions.

    Python's own functions are split among themselves, as everywhere in the course; what reads like
    a held-out one of them is dropped from the libraries and from the language reference.
    """
    python, held_python = pydoc_corpus.split(pydoc_corpus.functions())
    held_summaries = {doc_text.normalised(function.summary) for function in held_python}
    chats = (
        questions.question_answers(python, phrasings=3),
        questions.question_answers(held_python),
    )
    topics = _without_quotes(pydoc_corpus.topics(), held_summaries)
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


def _without_quotes(texts: Sequence[str], summaries: set[str]) -> list[Document]:
    """The texts less the paragraphs that quote one of the summaries (of five words or more)."""
    long = re.compile("|".join(re.escape(s) for s in sorted(summaries) if len(s.split()) >= 5))
    return [
        "\n\n".join(p for p in text.split("\n\n") if not long.search(doc_text.normalised(p)))
        for text in texts
    ]


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
    share = config.shares[name]
    return Source(name=name, licence=licence, share=share, train=train, held_out=held_out)


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
    texts = [
        document if isinstance(document, str) else "\n".join(turn["content"] for turn in document)
        for document in documents
    ]
    total = sum(map(len, texts))
    stride = max(1, -(-total // max_bytes))
    yield from texts[::stride]


def _shuffled_forever(rows: Sequence[TokenBatch], rng: np.random.Generator) -> Iterator[TokenBatch]:
    while True:
        for index in rng.permutation(len(rows)):
            yield rows[index]
