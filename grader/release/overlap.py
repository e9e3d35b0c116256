"""Whether a text repeats a solution: runs of tokens are compared, not characters.

One small lexer reads code, prose that quotes code, commented-out code and outputs alike: blanks,
line breaks, backticks and `#` do not count, HTML entities are resolved.
"""

import html
import io
import keyword
import re
import textwrap
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

SHORT_RUN = 8
LONG_RUN = 24
FEWEST_NAMES = 3
TOKEN = re.compile(r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|\w+|->|\*\*|//|[-+*/%@&|^=<>!:]=|<<|>>|[^\w\s]")
NOT_COUNTED = frozenset("`#")
# Idioms of eight tokens and more that answers and released cells share: no run goes across them.
IDIOM = re.compile(
    r"\bwith\s+torch\s*\.\s*no_grad\s*\(\s*\)\s*:"
    r"|\(\s*torch\s*\.\s*autograd\s*\.\s*Function\s*\)\s*:"
    r"|@\s*staticmethod\s+def\s+(?:forward|backward)\s*\(\s*ctx\b"
)
LAYOUT = frozenset(
    {
        tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
)  # fmt: skip
Run = tuple[str, ...]


def tokens(text: str) -> list[str]:
    """The words, numbers and signs of any text."""
    return [token for token in TOKEN.findall(html.unescape(text)) if token not in NOT_COUNTED]


def without_comments(code: str) -> str:
    """Python without its comments; any other text as it is."""
    try:
        found = list(tokenize.generate_tokens(io.StringIO(code).readline))
    except (tokenize.TokenError, SyntaxError):
        return code
    return " ".join(token.string for token in found if token.type not in LAYOUT)


def _runs(text: str, length: int) -> Iterator[Run]:
    for part in IDIOM.split(text):
        words = tokens(part)
        for start in range(len(words) - length + 1):
            yield tuple(words[start : start + length])


def _is_distinctive(run: Run) -> bool:
    """A phrase such as `(a - b).abs().max()` has fewer names than a piece of an answer."""
    names = {word for word in run if word.isidentifier() and not keyword.iskeyword(word)}
    return len(names) >= FEWEST_NAMES


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The text of one solution region."""

    lab: str
    cell: str
    text: str


@dataclass(slots=True)
class Answers:
    """All solutions of a course, indexed by their runs of tokens."""

    answers: list[Answer]
    _index: dict[int, dict[Run, list[Answer]]] = field(default_factory=dict)

    def repeated_in(self, text: str, *, lab: str = "", length: int = SHORT_RUN) -> str:
        """Name the first solution of which a run stands in a text; an empty string if none does.

        Args:
            text: Code, prose or output.
            lab: The lab the text belongs to. Any run of its solutions counts; of other labs' only
                one with at least three names, since all labs share the phrases of their libraries.
            length: Tokens in a run.
        """
        index = self._runs_of(length)
        for run in _both_readings(text, length):
            for answer in index.get(run, ()):
                if answer.lab == lab or _is_distinctive(run):
                    return f"the solution of {answer.lab}/{answer.cell}: {' '.join(run)}"
        return ""

    def _runs_of(self, length: int) -> dict[Run, list[Answer]]:
        if length not in self._index:
            made: dict[Run, list[Answer]] = {}
            for answer in self.answers:
                code = without_comments(textwrap.dedent(answer.text))
                for run in _runs(code, length):
                    made.setdefault(run, []).append(answer)
            self._index[length] = made
        return self._index[length]


def _both_readings(text: str, length: int) -> Iterable[Run]:
    """Runs of a text with its comments read as words, then of the code between the comments."""
    yield from _runs(text, length)
    if "#" in text:
        yield from _runs(without_comments(textwrap.dedent(text)), length)
