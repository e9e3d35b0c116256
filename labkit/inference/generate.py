"""Text from prompts: alone, batched, streamed, as a chat, or as bare token ids."""

from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from labkit.inference.decoding import BatchDecoder
from labkit.inference.sampling import SamplingConfig, next_token_distribution, sample
from labkit.inference.text import TextAssembler
from labkit.model.minillm import MiniLLM
from labkit.model.tokenizer import Tokenizer

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """One finished text.

    Attributes:
        text: Without special tokens, cut before a stop string.
        ids: All tokens generated, an end-of-sequence token included.
        finish_reason: "stop" at the end-of-sequence token or a stop string, "length" at
            max_new_tokens or at the end of the model's context.
        prompt_tokens: Length of the prompt.
    """

    text: str
    ids: list[int]
    finish_reason: FinishReason
    prompt_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """What one token added to a streamed text; the last piece has the finish reason."""

    text: str
    token: int
    finish_reason: FinishReason | None


def generate(
    model: MiniLLM, tokenizer: Tokenizer, prompts: str | list[str], config: SamplingConfig
) -> list[Generation]:
    """Generate one text a prompt; prompts of any lengths run as one batch.

    Each row draws from its own generator, seeded with `config.seed`, or `config.seed + k` for the
    k-th repetition of a prompt: a text is the same alone and in any batch, and repeating a
    prompt yields several samples of it.

    Args:
        model: MiniLLM, with adapters or quantized linears or without.
        tokenizer: Its tokenizer.
        prompts: One prompt or several, taken as they are (no chat template).
        config: Choice of tokens and end.

    Raises:
        ValueError: A prompt is empty or longer than the model's `max_length`.
    """
    texts = [prompts] if isinstance(prompts, str) else prompts
    encoded = [encode_prompt(tokenizer, text) for text in texts]
    return generate_tokenized(model, tokenizer, encoded, config)


def encode_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of a prompt, behind the BOS of a model that has one, unless written out."""
    begun = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    return tokenizer.encode(text, add_special=not begun)


def generate_tokenized(
    model: MiniLLM, tokenizer: Tokenizer, prompts: list[list[int]], config: SamplingConfig
) -> list[Generation]:
    """`generate` for prompts that are token ids already."""
    if not prompts:
        return []
    rows = _rows(model, tokenizer, prompts, config)
    for _ in _run(model, rows, config):
        pass
    return [row.generation() for row in rows]


def stream(
    model: MiniLLM, tokenizer: Tokenizer, prompt: str, config: SamplingConfig
) -> Iterator[str]:
    """Yield the text of `generate` in pieces, as soon as each is final.

    No piece holds part of a character or of a stop string; joined, they equal `generate`'s text.

    Raises:
        ValueError: The prompt is empty or longer than the model's `max_length`; at the call.
    """
    pieces = stream_pieces(model, tokenizer, encode_prompt(tokenizer, prompt), config)
    return (piece.text for piece in pieces if piece.text)


def stream_pieces(
    model: MiniLLM, tokenizer: Tokenizer, prompt: list[int], config: SamplingConfig
) -> Generator[Piece, None, None]:
    """`stream` with every token and the reason of the end, from token ids."""
    rows = _rows(model, tokenizer, [prompt], config)
    return _pieces(model, rows, config)


def chat(
    model: MiniLLM, tokenizer: Tokenizer, messages: list[dict[str, str]], config: SamplingConfig
) -> Generation:
    """The assistant's answer to `messages`, each `{"role": …, "content": …}`."""
    [answer] = generate(model, tokenizer, tokenizer.apply_chat(messages), config)
    return answer


def generate_ids(
    model: MiniLLM, ids: Int[Tensor, "B T"], config: SamplingConfig, *, eos_id: int | None = None
) -> Int[Tensor, "B N"]:
    """The N new tokens of each row, without a tokenizer; N is at most `max_new_tokens`.

    Args:
        model: MiniLLM.
        ids: Prompts of one length.
        config: Without stop strings, since there is no text here.
        eos_id: Ends a row, which is then filled up with it; None ends none.

    Raises:
        ValueError: Stop strings were given, or prompts are empty or too long.
    """
    if config.stop:
        raise ValueError(f"stop={config.stop} needs a tokenizer: call generate instead")
    prompts: list[list[int]] = ids.tolist()
    rows = _rows(model, None, prompts, config, eos_id)
    for _ in _run(model, rows, config):
        pass
    N = max(len(row.ids) for row in rows)
    filled = [row.ids + [row.ids[-1]] * (N - len(row.ids)) for row in rows]
    return torch.tensor(filled, device=ids.device)


class _Row:
    """One sequence under way: what it has generated and whether it goes on."""

    def __init__(
        self,
        prompt: list[int],
        budget: int,
        generator: torch.Generator,
        eos_id: int | None,
        assembler: TextAssembler | None,
    ) -> None:
        self.prompt = prompt
        self.budget = budget
        self.generator = generator
        self.ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self._eos_id = eos_id
        self._assembler = assembler
        self._texts: list[str] = []

    def accept(self, token: int) -> str:
        """Take the next token, unless the row has ended; the text that has become final."""
        if self.finish_reason is not None:
            return ""
        self.ids.append(token)
        text = "" if self._assembler is None else self._assembler.push(token)
        if token == self._eos_id or (self._assembler and self._assembler.stopped):
            self.finish_reason = "stop"
        elif len(self.ids) == self.budget:
            self.finish_reason = "length"
        if self.finish_reason and self._assembler and not self._assembler.stopped:
            text += self._assembler.finish()
            if self._assembler.stopped:
                self.finish_reason = "stop"
        self._texts.append(text)
        return text

    def generation(self) -> Generation:
        assert self.finish_reason is not None
        return Generation(
            text="".join(self._texts),
            ids=self.ids,
            finish_reason=self.finish_reason,
            prompt_tokens=len(self.prompt),
        )


def _rows(
    model: MiniLLM,
    tokenizer: Tokenizer | None,
    prompts: list[list[int]],
    config: SamplingConfig,
    eos_id: int | None = None,
) -> list[_Row]:
    limit = model.config.max_length
    if tokenizer is not None:
        eos_id = tokenizer.eos_id
    repetitions: Counter[tuple[int, ...]] = Counter()
    rows = []
    for index, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {index} is empty: give at least one token")
        if len(prompt) > limit:
            raise ValueError(f"prompt {index} has {len(prompt)} tokens, above max_length={limit}")
        generator = torch.Generator().manual_seed(config.seed + repetitions[tuple(prompt)])
        repetitions[tuple(prompt)] += 1
        # The last token is returned, not fed, so it needs no room in the context.
        budget = min(config.max_new_tokens, limit - len(prompt) + 1)
        assembler = None if tokenizer is None else TextAssembler(tokenizer, config.stop)
        eos = None if config.ignore_eos else eos_id
        rows.append(_Row(prompt, budget, generator, eos, assembler))
    return rows


def _run(
    model: MiniLLM, rows: list[_Row], config: SamplingConfig
) -> Generator[list[str], None, None]:
    """Advance all rows a token at a time until each has ended, yielding their new texts."""
    steps = max(row.budget for row in rows)
    decoder = BatchDecoder(model, [row.prompt for row in rows], max_steps=steps - 1)
    with _evaluating(model):
        logits = decoder.prefill()
        while True:
            tokens = _choose(logits, rows, config)
            yield [row.accept(token) for row, token in zip(rows, tokens.tolist(), strict=True)]
            if all(row.finish_reason for row in rows):
                return
            logits = decoder.step(tokens)


def _choose(logits: Tensor, rows: list[_Row], config: SamplingConfig) -> Tensor:
    if config.temperature == 0:
        return logits.argmax(dim=-1)
    return sample(next_token_distribution(logits, config), [row.generator for row in rows])


def _pieces(
    model: MiniLLM, rows: list[_Row], config: SamplingConfig
) -> Generator[Piece, None, None]:
    [row] = rows
    with closing(_run(model, rows, config)) as steps:
        for [text] in steps:
            yield Piece(text=text, token=row.ids[-1], finish_reason=row.finish_reason)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off for the run, and back on if the model was training."""
    was_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in was_training:
            module.training = True
