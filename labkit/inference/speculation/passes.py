"""One request, pass by pass: propose, verify, roll back what was rejected."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.inference.sampling import SamplingConfig, next_token_distribution
from labkit.inference.speculation.cached_model import CachedModel
from labkit.inference.speculation.drafters import Drafter, Proposal
from labkit.inference.speculation.rejection import verify, verify_greedy
from labkit.model.minillm import MiniLLM


@dataclass(kw_only=True, slots=True)
class Statistics:
    """What the passes after the prompt's did.

    Attributes:
        passes: Passes of the target, each over its last token and the proposals.
        proposed: Tokens the drafter gave.
        accepted: Those that stood.
        rejected: Passes that ended in a rejection; what was proposed after it was not tested.
    """

    passes: int = 0
    proposed: int = 0
    accepted: int = 0
    rejected: int = 0

    @property
    def acceptance(self) -> float:
        """Accepted of those tested, an estimate of a = E sum min(p, q); nan without any."""
        tested = self.accepted + self.rejected
        return self.accepted / tested if tested else float("nan")

    @property
    def tokens_per_pass(self) -> float:
        """(1 - a^(k+1)) / (1 - a) in the formula; nan where the prompt's pass was the only one.

        Tokens of the last pass that lie beyond the end of the text count as well.
        """
        return 1 + self.accepted / self.passes if self.passes else float("nan")

    def record(self, *, proposed: int, accepted: int) -> None:
        """Count one pass."""
        self.passes += 1
        self.proposed += proposed
        self.accepted += accepted
        self.rejected += accepted < proposed


class Pass(NamedTuple):
    """What one pass of the target gave: the proposals accepted and one token more."""

    tokens: list[int]
    proposed: int

    @property
    def accepted(self) -> int:
        return len(self.tokens) - 1


class SpeculativeDecoder:
    """One request: the target with its cache, a drafter, and the tokens so far.

    After each call the target's cache holds all of `ids` but the last token, which the next pass
    reads together with the proposals for what follows it.

    Args:
        model: The target, in eval mode.
        drafter: Any drafter; a new one is begun from it.
        prompt: Token ids, at least one.
        config: Choice of tokens.
        generator: The request's own; prompt's pass, drafter and verification draw from it in turn.
        max_length: Most tokens that will be read: all of prompt and text but the last.
    """

    def __init__(
        self,
        model: MiniLLM,
        drafter: Drafter,
        prompt: Sequence[int],
        config: SamplingConfig,
        generator: torch.Generator,
        *,
        max_length: int,
    ) -> None:
        self.target = CachedModel(model, max_length=max_length)
        self.drafter = drafter.begin(config, generator, max_length=max_length)
        self.ids = list(prompt)
        self.statistics = Statistics()
        self._config = config
        self._generator = generator

    def prefill(self) -> int:
        """Read the prompt; the first new token."""
        logits = self.target.read(self.ids, last_only=True)
        _, token = self._verdict(Proposal([], None), logits)
        self.ids.append(token)
        return token

    def step(self, k: int) -> Pass:
        """Propose up to k tokens and check them in one pass; k = 0 is plain decoding."""
        proposal = self.drafter.propose(self.ids, k) if k else Proposal([], None)
        logits = self.target.read([self.ids[-1], *proposal.tokens])
        accepted, token = self._verdict(proposal, logits)
        kept = len(self.ids) + accepted
        self.target.truncate(kept)
        self.drafter.rollback(kept)
        self.statistics.record(proposed=len(proposal.tokens), accepted=accepted)
        done = Pass([*proposal.tokens[:accepted], token], len(proposal.tokens))
        self.ids += done.tokens
        return done

    def _verdict(self, proposal: Proposal, logits: Float[Tensor, "Q V"]) -> tuple[int, int]:
        proposed = torch.tensor([proposal.tokens], dtype=torch.long, device=logits.device)
        if self._config.temperature == 0:
            accepted, token = verify_greedy(proposed, logits.argmax(dim=-1)[None])
        else:
            p = next_token_distribution(logits, self._config)
            q = None if proposal.q is None else proposal.q[None]
            accepted, token = verify(proposed, p[None], q, [self._generator])
        return int(accepted), int(token)
