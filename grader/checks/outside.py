"""Functions among a question's inputs that stay with the grader: the student can only call them.

In a box such a function is a place in a list, and a call of it a message to the grader. In a
notebook it is called as it is, and answers and refuses the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from grader.checks.values import is_tensor

REFUSED = "this function cannot be called with these arguments"


@dataclass(frozen=True, slots=True)
class Outside:
    """A function whose code and data the student's process must not have.

    It may run in several threads at a time and takes what nobody has looked at. It must not change
    its arguments, nor draw from a global generator.

    Attributes:
        function: What is called; a ValueError of it is told to the student.
        most_numbers: How many numbers its arguments may have together.
    """

    function: Callable[..., Any]
    most_numbers: int

    def __call__(self, *arguments: Any) -> Any:
        """Call the function.

        Raises:
            ValueError: The arguments are too many numbers, or none that it can be called with.
        """
        if (size := sum(map(_size, arguments))) > self.most_numbers:
            raise ValueError(f"the arguments have {size} numbers, more than {self.most_numbers}")
        try:
            return self.function(*arguments)
        except ValueError:
            raise
        except Exception as error:
            raise ValueError(REFUSED) from error


def _size(value: Any) -> int:
    """The numbers in arrays, tensors, lists and tuples; everything else is one, and so is []."""
    if type(value) is np.ndarray:
        return int(value.size)
    if is_tensor(value):
        return int(value.numel())
    if type(value) in (list, tuple):
        return max(1, sum(map(_size, value)))
    return 1
