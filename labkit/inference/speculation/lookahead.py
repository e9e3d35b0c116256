"""How many tokens to guess: a fixed number, or what the acceptance of late makes best."""

from dataclasses import dataclass

from labkit.inference.speculation.rejection import speedup


@dataclass(frozen=True, kw_only=True, slots=True)
class LookaheadConfig:
    """k that follows the acceptance rate.

    Attributes:
        most: Largest k.
        least: Smallest k, at least 1: without proposals nothing would be learnt.
        cost: Of one more proposal, in passes of the target over one token, as in
            `rejection.speedup`; measure it, since it differs by drafter and machine.
        memory: Share of its weight that a pass keeps with each later one; 1 forgets nothing.
    """

    most: int = 8
    least: int = 1
    cost: float = 0.1
    memory: float = 0.9

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise ValueError(
                f"draft tokens from {self.least} to {self.most}: need 1 <= least <= most"
            )
        if self.cost < 0 or not 0 < self.memory <= 1:
            raise ValueError(
                f"cost={self.cost} must be at least 0 and memory={self.memory} lie in (0, 1]"
            )


class Lookahead:
    """k = argmax over least .. most of `rejection.speedup`, at the acceptance rate seen lately.

    The rate is (accepted + 1) / (tested + 2) over fading counts. It knows only what came out of
    earlier passes, so that the choice of k leaves the law of the text alone.
    """

    def __init__(self, config: LookaheadConfig) -> None:
        self._config = config
        self._accepted = 0.0
        self._tested = 0.0

    @property
    def acceptance(self) -> float:
        """The acceptance rate as estimated now."""
        return (self._accepted + 1) / (self._tested + 2)

    @property
    def draft_tokens(self) -> int:
        """k for the next pass."""
        a, c = self.acceptance, self._config
        return max(range(c.least, c.most + 1), key=lambda k: speedup(a, k, cost=c.cost))

    def update(self, *, proposed: int, accepted: int) -> None:
        """Count one pass; what follows a rejection was not tested."""
        tested = accepted + (accepted < proposed)
        self._accepted = self._config.memory * self._accepted + accepted
        self._tested = self._config.memory * self._tested + tested
