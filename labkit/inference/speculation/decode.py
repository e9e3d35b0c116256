"""Text by speculation: the law of `labkit.inference.generate`, in fewer passes of the model."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass

from labkit.inference import rows
from labkit.inference.chooser import Choice
from labkit.inference.decoding import evaluating
from labkit.inference.generate import Generation, Piece, encode_prompt, finished
from labkit.inference.rows import Row
from labkit.inference.sampling import SamplingConfig
from labkit.inference.speculation.drafters import Drafter
from labkit.inference.speculation.lookahead import Lookahead, LookaheadConfig
from labkit.inference.speculation.passes import SpeculativeDecoder, Statistics
from labkit.model.minillm import MiniLLM
from labkit.model.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Speculation:
    """One finished text and what it took."""

    generation: Generation
    statistics: Statistics


def speculate(
    model: MiniLLM,
    tokenizer: Tokenizer,
    prompts: str | list[str],
    drafter: Drafter,
    config: SamplingConfig,
    *,
    draft_tokens: int | LookaheadConfig = 4,
) -> list[Speculation]:
    """One text a prompt, each by itself, with the law that `generate` gives it.

    Greedy, the tokens are `generate`'s in float32; in bfloat16 a pass over several tokens rounds
    otherwise than one over each, and near-ties may fall differently. At a temperature the texts are
    other samples of the same law. `config` holds for draft and target: both laws are truncated.

    Args:
        model: The target: MiniLLM, with adapters or quantized linears or without.
        tokenizer: Its tokenizer.
        prompts: One prompt or several, taken as they are (no chat template).
        drafter: Any drafter; it keeps no state of these requests.
        config: Choice of tokens and end.
        draft_tokens: k, most proposals a pass, or how to choose it as the text goes on.

    Raises:
        ValueError: A prompt is empty or too long, the drafter has another vocabulary,
            `draft_tokens` is below 1, the target's sliding window is shorter than the request, or
            `config` asks for what a token's law would have to know its predecessors for: penalties,
            bias, `min_new_tokens`, log-probabilities.
    """
    texts = [prompts] if isinstance(prompts, str) else prompts
    encoded = [encode_prompt(tokenizer, text) for text in texts]
    done = []
    for row in _begin(model, tokenizer, encoded, config):
        decoder = _decoder(model, tokenizer, row, drafter, config)
        for _ in _pieces(decoder, row, _lookahead(draft_tokens)):
            pass
        done.append(Speculation(generation=finished(row), statistics=decoder.statistics))
    return done


def stream(
    model: MiniLLM,
    tokenizer: Tokenizer,
    prompt: str,
    drafter: Drafter,
    config: SamplingConfig,
    *,
    draft_tokens: int | LookaheadConfig = 4,
) -> Iterator[str]:
    """Yield the text of `speculate` in pieces, as soon as each is final; they come in bursts.

    Raises:
        ValueError: As `speculate`; at the call.
    """
    ids = encode_prompt(tokenizer, prompt)
    pieces = stream_pieces(model, tokenizer, ids, drafter, config, draft_tokens=draft_tokens)
    return (piece.text for piece in pieces if piece.text)


def stream_pieces(
    model: MiniLLM,
    tokenizer: Tokenizer,
    prompt: list[int],
    drafter: Drafter,
    config: SamplingConfig,
    *,
    draft_tokens: int | LookaheadConfig = 4,
) -> Generator[Piece, None, None]:
    """`stream` with every token and the reason of the end, from token ids."""
    [row] = _begin(model, tokenizer, [prompt], config)
    decoder = _decoder(model, tokenizer, row, drafter, config)
    return _pieces(decoder, row, _lookahead(draft_tokens))


def _begin(
    model: MiniLLM, tokenizer: Tokenizer, prompts: list[list[int]], config: SamplingConfig
) -> list[Row]:
    asked = {
        "penalties": config.penalises,
        "logit_bias": bool(config.logit_bias),
        "min_new_tokens": config.min_new_tokens > 0,
        "logprobs": config.logprobs is not None,
    }
    if refused := [name for name, on in asked.items() if on]:
        raise ValueError(
            f"speculation does not do {', '.join(refused)}: leave that out, or call `generate`"
        )
    return rows.begin(model, tokenizer, prompts, config)


def _decoder(
    model: MiniLLM, tokenizer: Tokenizer, row: Row, drafter: Drafter, config: SamplingConfig
) -> SpeculativeDecoder:
    drafter.check(model.config.vocab_size, tokenizer)
    longest = len(row.prompt) + row.budget - 1
    return SpeculativeDecoder(
        model, drafter, row.prompt, config, row.chooser.generator, max_length=longest
    )


def _lookahead(draft_tokens: int | LookaheadConfig) -> Lookahead:
    if isinstance(draft_tokens, int):
        draft_tokens = LookaheadConfig(least=draft_tokens, most=draft_tokens)
    return Lookahead(draft_tokens)


def _pieces(
    decoder: SpeculativeDecoder, row: Row, lookahead: Lookahead
) -> Generator[Piece, None, None]:
    """Advance one request to its end; a run of accepted tokens is cut where the text ends."""
    with evaluating(decoder.target.model):
        tokens = [decoder.prefill()]
        while True:
            for token in tokens:
                text = row.accept(Choice(token))
                yield Piece(text=text, token=token, finish_reason=row.finish_reason)
                if row.finish_reason:
                    return
            # A pass adds one token to those accepted: of the rest, all but one may be guessed.
            done = decoder.step(min(lookahead.draft_tokens, row.budget - len(row.ids) - 1))
            lookahead.update(proposed=done.proposed, accepted=done.accepted)
            tokens = done.tokens
