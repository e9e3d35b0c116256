"""Text from prompts: alone, batched, streamed, as a chat, or as bare token ids."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from labkit.inference import rows
from labkit.inference.chooser import Choice
from labkit.inference.constraint import Constraint
from labkit.inference.decoding import BatchDecoder, evaluating
from labkit.inference.rows import FinishReason, Row
from labkit.inference.sampling import SamplingConfig
from labkit.model.minillm import MiniLLM
from labkit.model.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """One finished text.

    Attributes:
        text: Without special tokens, cut before a stop string.
        ids: All tokens generated, an end-of-sequence or stop token included.
        finish_reason: "stop" at the end-of-sequence token, a stop token or string, or where the
            constraint is fulfilled; "length" at max_new_tokens or at the end of the model's
            context, also if the constraint is not fulfilled then.
        prompt_tokens: Length of the prompt.
        logprobs: Each token's log-probability and those of the likeliest; None if not asked for.
    """

    text: str
    ids: list[int]
    finish_reason: FinishReason
    prompt_tokens: int
    logprobs: list[Choice] | None = None

    @property
    def cumulative_logprob(self) -> float:
        """log p of all tokens given the prompt, those cut from the text included, in nats.

        Raises:
            ValueError: Log-probabilities were not recorded.
        """
        if self.logprobs is None:
            raise ValueError("no log-probabilities were recorded: set logprobs=0 in the config")
        return sum(choice.logprob or 0.0 for choice in self.logprobs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """What one token added to a streamed text; the last piece has the finish reason.

    Attributes:
        text: Often empty.
        token: Its id.
        finish_reason: None while the text goes on.
        logprobs: The token's log-probability and those of the likeliest; None if not asked for.
    """

    text: str
    token: int
    finish_reason: FinishReason | None
    logprobs: Choice | None = None


def generate(
    model: MiniLLM,
    tokenizer: Tokenizer,
    prompts: str | list[str],
    config: SamplingConfig,
    *,
    n: int = 1,
    best_of: int | None = None,
    constraint: Constraint | None = None,
) -> list[Generation]:
    """Generate n texts a prompt; prompts of any lengths run as one batch.

    Each row draws from its own generator, seeded with `config.seed`, or `config.seed + k` for the
    k-th repetition of a prompt: a text is the same alone and in any batch, and repeating a
    prompt yields several samples of it, as `n` does.

    Args:
        model: MiniLLM, with adapters or quantized linears or without.
        tokenizer: Its tokenizer.
        prompts: One prompt or several, taken as they are (no chat template).
        config: Choice of tokens and end.
        n: Texts a prompt; those of one prompt follow one another.
        best_of: Draw so many for each prompt and return the n of the highest cumulative
            log-probability, the best first; None draws n and returns them as they come.
        constraint: What the texts must be like, at its beginning; every text has its own copy.

    Raises:
        ValueError: A prompt is empty or longer than the model's `max_length`, `config` names
            tokens the model has not, or several greedy texts of one prompt are asked for.
    """
    texts = [prompts] if isinstance(prompts, str) else prompts
    encoded = [encode_prompt(tokenizer, text) for text in texts]
    return generate_tokenized(
        model, tokenizer, encoded, config, n=n, best_of=best_of, constraint=constraint
    )


def encode_prompt(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of a prompt, behind the BOS of a model that has one, unless written out."""
    begun = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    return tokenizer.encode(text, add_special=not begun)


def generate_tokenized(
    model: MiniLLM,
    tokenizer: Tokenizer,
    prompts: list[list[int]],
    config: SamplingConfig,
    *,
    n: int = 1,
    best_of: int | None = None,
    constraint: Constraint | None = None,
) -> list[Generation]:
    """`generate` for prompts that are token ids already."""
    samples = _num_samples(n, best_of, config)
    if not prompts:
        return []
    if best_of is not None and config.logprobs is None:
        config = replace(config, logprobs=0)
    repeated = [prompt for prompt in prompts for _ in range(samples)]
    under_way = rows.begin(model, tokenizer, repeated, config, constraint=constraint)
    for _ in _run(model, under_way):
        pass
    texts = [finished(row) for row in under_way]
    if best_of is None:
        return texts
    return [text for at in range(0, len(texts), samples) for text in _best(texts[at:][:samples], n)]


def stream(
    model: MiniLLM,
    tokenizer: Tokenizer,
    prompt: str,
    config: SamplingConfig,
    *,
    constraint: Constraint | None = None,
) -> Iterator[str]:
    """Yield the text of `generate` in pieces, as soon as each is final.

    No piece holds part of a character or of a stop string; joined, they equal `generate`'s text.

    Raises:
        ValueError: The prompt is empty or longer than the model's `max_length`; at the call.
    """
    ids = encode_prompt(tokenizer, prompt)
    pieces = stream_pieces(model, tokenizer, ids, config, constraint=constraint)
    return (piece.text for piece in pieces if piece.text)


def stream_pieces(
    model: MiniLLM,
    tokenizer: Tokenizer,
    prompt: list[int],
    config: SamplingConfig,
    *,
    constraint: Constraint | None = None,
) -> Generator[Piece, None, None]:
    """`stream` with every token and the reason of the end, from token ids."""
    [row] = rows.begin(model, tokenizer, [prompt], config, constraint=constraint)
    return _pieces(model, row)


def chat(
    model: MiniLLM,
    tokenizer: Tokenizer,
    messages: list[dict[str, str]],
    config: SamplingConfig,
    *,
    best_of: int | None = None,
    constraint: Constraint | None = None,
) -> Generation:
    """The assistant's answer to `messages`, each `{"role": …, "content": …}`."""
    prompt = tokenizer.apply_chat(messages)
    [answer] = generate(model, tokenizer, prompt, config, best_of=best_of, constraint=constraint)
    return answer


def generate_ids(
    model: MiniLLM,
    ids: Int[Tensor, "B T"],
    config: SamplingConfig,
    *,
    eos_id: int | None = None,
    constraint: Constraint | None = None,
) -> Int[Tensor, "B N"]:
    """The N new tokens of each row, without a tokenizer; N is at most `max_new_tokens`.

    Args:
        model: MiniLLM.
        ids: Prompts of one length.
        config: Without stop strings, since there is no text here.
        eos_id: Ends a row, which is then filled up with its last token; None ends none.
        constraint: What the rows must be like; every row has its own copy.

    Raises:
        ValueError: Stop strings or log-probabilities were asked for, or prompts are empty or too
            long.
    """
    if config.stop or config.logprobs is not None:
        raise ValueError(
            f"stop={config.stop} needs a tokenizer, and logprobs={config.logprobs} has no place in "
            "a tensor of ids: call generate instead"
        )
    prompts: list[list[int]] = ids.tolist()
    under_way = rows.begin(model, None, prompts, config, eos_id=eos_id, constraint=constraint)
    for _ in _run(model, under_way):
        pass
    new = [row.ids for row in under_way]
    N = max(len(row) for row in new)
    return torch.tensor([row + [row[-1]] * (N - len(row)) for row in new], device=ids.device)


def _run(model: MiniLLM, under_way: Sequence[Row]) -> Generator[list[str], None, None]:
    """Advance all rows a token at a time until each has ended, yielding their new texts."""
    steps = max(row.budget for row in under_way)
    decoder = BatchDecoder(model, [row.prompt for row in under_way], max_steps=steps - 1)
    with evaluating(model):
        logits = decoder.prefill()
        while True:
            yield rows.advance(under_way, logits)
            if all(row.finish_reason for row in under_way):
                return
            logits = decoder.step(torch.tensor([row.choices[-1].token for row in under_way]))


def _pieces(model: MiniLLM, row: Row) -> Generator[Piece, None, None]:
    with closing(_run(model, [row])) as steps:
        for [text] in steps:
            last = row.choices[-1]
            yield Piece(
                text=text,
                token=last.token,
                finish_reason=row.finish_reason,
                logprobs=None if last.logprob is None else last,
            )


def finished(row: Row) -> Generation:
    """What a row that has ended amounts to."""
    assert row.finish_reason is not None
    return Generation(
        text="".join(row.texts),
        ids=row.ids,
        finish_reason=row.finish_reason,
        prompt_tokens=len(row.prompt),
        logprobs=None if row.chooser.config.logprobs is None else row.choices,
    )


def _num_samples(n: int, best_of: int | None, config: SamplingConfig) -> int:
    samples = n if best_of is None else best_of
    if not 1 <= n <= samples:
        raise ValueError(f"n={n} must be at least 1 and at most best_of={best_of}")
    if samples > 1 and config.temperature == 0:
        raise ValueError(
            f"n={n}, best_of={best_of} with temperature=0 repeats one text: set a temperature, or "
            "see beam.beam_search"
        )
    return samples


def _best(texts: list[Generation], n: int) -> list[Generation]:
    return sorted(texts, key=lambda text: -text.cumulative_logprob)[:n]
