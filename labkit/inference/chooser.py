"""One token a row, each row by its own rules: what an engine calls after every forward pass.

The order of the transforms, each on what the one before has left:

1. `logit_bias` is added to the raw logits;
2. the repetition penalty, then frequency and presence penalties;
3. masks: the constraint's, and of ends before `min_new_tokens`;
4. temperature; 0 takes the largest score here and is done;
5. top-k, 6. top-p, 7. min-p, 8. softmax and the draw.

transformers has the same order (its sequence bias, repetition penalty, minimal length and prefix
constraint, then the warpers), and no presence or frequency penalty. vLLM applies min-p before
top-k and top-p instead, which changes what top-p's sum runs over. Log-probabilities are taken
before step 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from labkit.inference.constraint import Constraint
from labkit.inference.logprobs import TopTokens, token_logprobs
from labkit.inference.penalties import SeenTokens, penalised
from labkit.inference.sampling import SamplingConfig, next_token_distributions, sample

CHUNK = 8  # rows drawn for at once: their float64 sums stay in the processor's cache


@dataclass(frozen=True, slots=True)
class Choice:
    """A token drawn, with what the model itself thought of it.

    Attributes:
        token: Its id.
        logprob: Of the model's distribution before any transform; None if not asked for.
        top: (id, log-probability) of the likeliest tokens, likeliest first.
    """

    token: int
    logprob: float | None = None
    top: TopTokens = ()


class TokenChooser:
    """What choosing needs to know of one sequence: rules, generator, tokens so far, grammar.

    Args:
        config: The rules.
        prompt: Token ids, which the repetition penalty counts too.
        seed: Of the sequence's own generator; default: `config.seed`.
        constraint: Tokens that may come next; advanced with every choice, so give each sequence
            its own copy.
        eos_id: Ends the sequence; not drawn before `min_new_tokens`.
    """

    def __init__(
        self,
        config: SamplingConfig,
        prompt: Sequence[int],
        *,
        seed: int | None = None,
        constraint: Constraint | None = None,
        eos_id: int | None = None,
    ) -> None:
        self.config = config
        self.constraint = constraint
        self.generator = torch.Generator().manual_seed(config.seed if seed is None else seed)
        self.seen = SeenTokens(prompt) if config.penalises else None
        self.num_chosen = 0
        eos = () if eos_id is None or config.ignore_eos else (eos_id,)
        self._ends = [*config.stop_token_ids, *eos]

    @property
    def finished(self) -> bool:
        """The constraint's text is complete: the sequence ends here."""
        return self.constraint is not None and self.constraint.finished

    @property
    def edits(self) -> bool:
        """Whether the next logits are changed before temperature."""
        config = self.config
        asked = bool(config.logit_bias) or config.penalises or self.constraint is not None
        return asked or self._too_early()

    def allowed(self, vocab_size: int) -> Bool[Tensor, "V"] | None:
        """True at tokens that may come next; None where all may.

        Raises:
            ValueError: The constraint speaks of another vocabulary.
        """
        if self.constraint is None and not self._too_early():
            return None
        if self.constraint is None:
            mask = torch.ones(vocab_size, dtype=torch.bool)
        else:
            mask = self.constraint.allowed()
        if len(mask) != vocab_size:
            raise ValueError(f"the constraint knows {len(mask)} tokens, the model {vocab_size}")
        if self._too_early():
            going_on = mask.clone()
            going_on[self._ends] = False
            mask = going_on if bool(going_on.any()) else mask
        return mask

    def record(self, token: int) -> None:
        """Take the token that was chosen."""
        self.num_chosen += 1
        if self.seen is not None:
            self.seen.add(token)
        if self.constraint is not None:
            self.constraint.advance(token)

    def _too_early(self) -> bool:
        return self.num_chosen < self.config.min_new_tokens and bool(self._ends)


@torch.no_grad()
def choose(logits: Float[Tensor, "B V"], choosers: Sequence[TokenChooser]) -> list[Choice]:
    """Draw one token a row by the rules of its chooser, which records it.

    A row's token is the same alone and in any batch. A batch that is greedy and nothing else costs
    one argmax.

    Args:
        logits: Of the next token, as the model gives them; they stay as they are.
        choosers: One a row.

    Raises:
        ValueError: Their number is not B, a constraint does not fit the vocabulary, or a row has
            no token of positive probability (its logits are no numbers).
    """
    if len(choosers) != logits.shape[0]:
        raise ValueError(f"{len(choosers)} choosers for B={logits.shape[0]} rows: give one a row")
    tokens = _draw(adjusted(logits, choosers), choosers)
    choices = _with_logprobs(logits, tokens, choosers)
    for chooser, choice in zip(choosers, choices, strict=True):
        chooser.record(choice.token)
    return choices


def adjusted(
    logits: Float[Tensor, "B V"], choosers: Sequence[TokenChooser]
) -> Float[Tensor, "B V"]:
    """Steps 1 to 3 in float32; the logits themselves where no row asks for any."""
    if not any(chooser.edits for chooser in choosers):
        return logits
    scores = logits.to(torch.float32, copy=True)
    _add_bias(scores, choosers)
    _penalise(scores, choosers)
    _mask(scores, choosers)
    return scores


def _add_bias(scores: Tensor, choosers: Sequence[TokenChooser]) -> None:
    biases = [
        (row, token, bias)
        for row, chooser in enumerate(choosers)
        for token, bias in chooser.config.logit_bias.items()
    ]
    if biases:
        rows, ids, values = zip(*biases, strict=True)
        scores[rows, ids] += torch.tensor(values, device=scores.device)


def _penalise(scores: Tensor, choosers: Sequence[TokenChooser]) -> None:
    """All rows' seen tokens as one list of N: gathered, penalised, put back."""
    seen = [(row, c.seen, c.config) for row, c in enumerate(choosers) if c.seen is not None]
    if not seen:
        return
    lengths = torch.tensor([len(tokens.ids) for _, tokens, _ in seen])
    rules = torch.tensor(
        [
            (row, config.repetition_penalty, config.presence_penalty, config.frequency_penalty)
            for row, _, config in seen
        ]
    )
    rows, repetition, presence, frequency = rules.repeat_interleave(lengths, dim=0).to(scores).T
    at = rows.long(), torch.cat([tokens.ids for _, tokens, _ in seen]).to(scores.device)
    counts = torch.cat([tokens.counts for _, tokens, _ in seen]).to(scores.device)
    scores[at] = penalised(
        scores[at], counts, repetition=repetition, presence=presence, frequency=frequency
    )


def _mask(scores: Tensor, choosers: Sequence[TokenChooser]) -> None:
    masks = {
        row: mask
        for row, chooser in enumerate(choosers)
        if (mask := chooser.allowed(scores.shape[1])) is not None
    }
    if masks:
        rows, allowed = list(masks), torch.stack(list(masks.values())).to(scores.device)
        scores[rows] = scores[rows].masked_fill(~allowed, -torch.inf)


def _draw(scores: Tensor, choosers: Sequence[TokenChooser]) -> list[int]:
    """Steps 4 to 8."""
    tokens = _argmax(scores)
    drawing = [row for row, chooser in enumerate(choosers) if chooser.config.temperature > 0]
    for at in range(0, len(drawing), CHUNK):
        rows = drawing[at : at + CHUNK]
        probs = next_token_distributions(scores[rows], [choosers[row].config for row in rows])
        tokens[rows] = sample(probs, [choosers[row].generator for row in rows])
    chosen: list[int] = tokens.tolist()
    return chosen


def _argmax(scores: Float[Tensor, "B V"]) -> Int[Tensor, " B"]:
    """The first of each row's largest: of 32 rows of 49,152, NumPy's takes a tenth of the time."""
    if scores.device.type == "cpu" and scores.dtype == torch.float32:
        return torch.from_numpy(scores.detach().numpy().argmax(axis=-1))
    return scores.argmax(dim=-1)


def _with_logprobs(
    logits: Tensor, tokens: list[int], choosers: Sequence[TokenChooser]
) -> list[Choice]:
    choices = [Choice(token) for token in tokens]
    wanted = {row: n for row, c in enumerate(choosers) if (n := c.config.logprobs) is not None}
    if wanted:
        chosen = torch.tensor([tokens[row] for row in wanted])
        found = token_logprobs(logits[list(wanted)], chosen, max(wanted.values()))
        for (row, n), (logprob, top) in zip(wanted.items(), found, strict=True):
            choices[row] = Choice(tokens[row], logprob, top[:n])
    return choices
