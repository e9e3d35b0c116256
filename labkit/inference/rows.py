"""One sequence under way: its tokens, its text, and when it ends."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from labkit.inference.chooser import Choice, TokenChooser, choose
from labkit.inference.constraint import Constraint
from labkit.inference.sampling import SamplingConfig
from labkit.inference.text import TextAssembler
from labkit.model.minillm import MiniLLM
from labkit.model.tokenizer import Tokenizer
from labkit.tuning import soft_prompt

FinishReason = Literal["stop", "length"]


class Row:
    """A prompt and what has been generated after it.

    Args:
        prompt: Token ids.
        budget: Most tokens to generate.
        chooser: Draws them.
        eos_id: Ends the row; None if nothing does.
        assembler: Makes the text; None if there is none.
    """

    def __init__(
        self,
        prompt: list[int],
        *,
        budget: int,
        chooser: TokenChooser,
        eos_id: int | None,
        assembler: TextAssembler | None,
    ) -> None:
        self.prompt = prompt
        self.budget = budget
        self.chooser = chooser
        self.choices: list[Choice] = []
        self.texts: list[str] = []
        self.finish_reason: FinishReason | None = None
        self._eos_id = eos_id
        self._assembler = assembler

    @property
    def ids(self) -> list[int]:
        """The tokens generated, those that end a row included."""
        return [choice.token for choice in self.choices]

    def accept(self, choice: Choice) -> str:
        """Take the next token; the text that has become final."""
        self.choices.append(choice)
        config, token, assembler = self.chooser.config, choice.token, self._assembler
        silent = token in config.stop_token_ids
        ended = silent or token == self._eos_id or self.chooser.finished
        may_stop = len(self.choices) > config.min_new_tokens
        text = ""
        if assembler is not None and not silent:
            text = assembler.push(token, may_stop=may_stop)
        stopped = assembler is not None and assembler.stopped
        if ended or stopped:
            self.finish_reason = "stop"
        elif len(self.choices) == self.budget:
            self.finish_reason = "length"
        if self.finish_reason and assembler is not None and not stopped:
            text += assembler.finish(may_stop=may_stop)
            if assembler.stopped:
                self.finish_reason = "stop"
        self.texts.append(text)
        return text


def begin(
    model: MiniLLM,
    tokenizer: Tokenizer | None,
    prompts: Sequence[list[int]],
    config: SamplingConfig,
    *,
    eos_id: int | None = None,
    constraint: Constraint | None = None,
) -> list[Row]:
    """A row for each prompt; the k-th repetition of a prompt draws with `config.seed + k`.

    Args:
        model: Bounds the lengths and the token ids.
        tokenizer: Gives texts and the end-of-sequence token; None for rows of ids alone.
        prompts: Token ids.
        config: The same for all rows.
        eos_id: Ends a row where there is no tokenizer.
        constraint: Every row gets a copy.

    Raises:
        ValueError: A prompt is empty or too long, or `config` names tokens the model has not.
    """
    config.check_token_ids(model.config.vocab_size)
    eos_id = eos_id if tokenizer is None else tokenizer.eos_id
    eos_id = None if config.ignore_eos else eos_id
    limit = model.config.max_length - soft_prompt.virtual_tokens(model)
    repetitions: Counter[tuple[int, ...]] = Counter()
    rows = []
    for index, prompt in enumerate(prompts):
        room = budget(prompt, config, limit, name=f"prompt {index}")
        chooser = TokenChooser(
            config,
            prompt,
            seed=config.seed + repetitions[tuple(prompt)],
            constraint=None if constraint is None else constraint.copy(),
            eos_id=eos_id,
        )
        repetitions[tuple(prompt)] += 1
        assembler = None if tokenizer is None else TextAssembler(tokenizer, config.stop)
        row = Row(prompt, budget=room, chooser=chooser, eos_id=eos_id, assembler=assembler)
        rows.append(row)
    return rows


def advance(rows: Sequence[Row], logits: Tensor) -> list[str]:
    """Choose a token for every row that has not ended; the rows' new texts, "" of ended ones."""
    under_way = [index for index, row in enumerate(rows) if row.finish_reason is None]
    if len(under_way) < len(rows):
        logits = logits[under_way]
    texts = [""] * len(rows)
    choices = choose(logits, [rows[index].chooser for index in under_way])
    for index, choice in zip(under_way, choices, strict=True):
        texts[index] = rows[index].accept(choice)
    return texts


def budget(
    prompt: Sequence[int], config: SamplingConfig, max_length: int, *, name: str = "the prompt"
) -> int:
    """Most tokens to generate: the last one is returned, not fed, so it needs no room.

    Raises:
        ValueError: The prompt is empty or longer than the model's context.
    """
    if not prompt:
        raise ValueError(f"{name} is empty: give at least one token")
    if len(prompt) > max_length:
        raise ValueError(f"{name} has {len(prompt)} tokens, above max_length={max_length}")
    return min(config.max_new_tokens, max_length - len(prompt) + 1)
