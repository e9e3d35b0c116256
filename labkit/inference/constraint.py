"""What structured decoding promises to sampling: the tokens that may come next."""

from typing import Protocol, runtime_checkable

from jaxtyping import Bool
from torch import Tensor


@runtime_checkable
class Constraint(Protocol):
    """The state of one sequence's grammar, advanced by every token that is drawn."""

    @property
    def finished(self) -> bool:
        """The text is complete, and no token but the end of the sequence may follow."""
        ...

    def allowed(self) -> Bool[Tensor, "V"]:
        """True at every token that may come next; at least one is, also at the end."""
        ...

    def advance(self, token: int) -> None:
        """Take a token that `allowed` holds.

        Raises:
            ValueError: The token may not come here.
        """
        ...

    def copy(self) -> "Constraint":
        """The same state, advanced apart from this one; for n-best and beams."""
        ...
