"""A task so small that every response can be listed: reward, KL and the best policy are exact.

The prompt is one symbol, the response `length` symbols, the reward the share of response symbols
that are larger than the one before. A vocabulary of 5 and responses of 3 make 125 of each prompt.
"""

import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from labkit.data.batch import TokenBatch, collate
from labkit.data.preferences import Preference, Tokens, response_example

LARGEST_LISTING = 200_000


@dataclass(frozen=True, kw_only=True, slots=True)
class RisingTask:
    """Symbols 0 to `num_symbols` - 1 are all the tokens there are: no end-of-sequence, no padding.

    Attributes:
        num_symbols: V, at least 2.
        length: T, symbols of a response, at least 1.
    """

    num_symbols: int = 5
    length: int = 3

    def __post_init__(self) -> None:
        if self.num_symbols < 2 or self.length < 1:
            raise ValueError(
                f"num_symbols={self.num_symbols} must be at least 2, length={self.length} "
                "at least 1"
            )
        if self.num_symbols ** (self.length + 1) > LARGEST_LISTING:
            raise ValueError(
                f"{self.num_symbols}^{self.length + 1} sequences are too many to list: at most "
                f"{LARGEST_LISTING}, so lower num_symbols or length"
            )

    def prompts(self) -> list[Tokens]:
        """All prompts."""
        return [(symbol,) for symbol in range(self.num_symbols)]

    def responses(self) -> list[Tokens]:
        """All N = V^T responses, in lexicographic order; the same for every prompt."""
        return list(itertools.product(range(self.num_symbols), repeat=self.length))

    def every_sequence(self) -> TokenBatch:
        """All prompts with all responses: V N rows, a prompt's N responses together."""
        pairs = itertools.product(self.prompts(), self.responses())
        return collate([response_example(*pair) for pair in pairs], pad_id=0)

    def rewards(self, ids: Int[Tensor, "B S"]) -> Float[Tensor, "B"]:
        """Share of rises of sequences whose first symbol is the prompt."""
        return (ids[:, 1:] > ids[:, :-1]).float().mean(-1)

    def listed_rewards(self) -> Float[Tensor, "P N"]:
        """The rewards of `every_sequence`, a row a prompt."""
        return self.rewards(self.every_sequence().ids).view(self.num_symbols, -1)

    def preferences(
        self, count: int, *, scale: float, generator: torch.Generator
    ) -> list[Preference]:
        """Pairs of uniformly drawn responses, the better one preferred only by and large.

        The preference is drawn with probability ``sigmoid(scale (r - r'))``, the model of
        Bradley and Terry with rewards ``scale * r``: DPO at beta has its optimum in
        ``ref * exp(scale * r / beta)``.

        Args:
            count: How many pairs.
            scale: How reliable they are; 0 is a coin.
            generator: Decides the pairs; a CPU generator.
        """
        V, T = self.num_symbols, self.length
        prompts = torch.randint(V, (count, 1), generator=generator)
        first, second = torch.randint(V, (2, count, T), generator=generator)
        margin = self.rewards(torch.cat([prompts, first], 1)) - self.rewards(
            torch.cat([prompts, second], 1)
        )
        wins = torch.rand(count, generator=generator) < (scale * margin).sigmoid()
        chosen = torch.where(wins[:, None], first, second).tolist()
        rejected = torch.where(wins[:, None], second, first).tolist()
        rows = zip(prompts.tolist(), chosen, rejected, strict=True)
        return [Preference(prompt=tuple(p), chosen=tuple(c), rejected=tuple(r)) for p, c, r in rows]
