"""Python source as tokens that stay the same under new names, comments, layout and literals.

One regular expression instead of `tokenize` or Pygments: it takes linear time whatever a learner
hands in, reads on after a syntax error, and gives the same tokens under every Python version.
"""

import builtins
import keyword
import re
from collections.abc import Iterator
from typing import NamedTuple

TOKEN = re.compile(
    r"""
    (?P<blank>   [^\S\n]++ | \\\n )
  | (?P<newline> \n )
  | (?P<comment> \#[^\n]*+ )
  | (?P<string>  (?i:[rbuft]{0,2})
                 (?: \"{3} (?:\\?.)*? (?:\"{3}|\Z) | '{3} (?:\\?.)*? (?:'{3}|\Z)
                   | "(?:\\.|[^"\\\n])*+"? | '(?:\\.|[^'\\\n])*+'? ) )
  | (?P<number>  \.?\d (?:[\w.]|(?<=[eE])[+-])*+ )
  | (?P<name>    [^\W\d]\w*+ )
  | (?P<sign>    (?:\*\*|//|<<|>>)=? | -> | [-+*/%@&|^<>=!:]= | . )
    """,
    re.VERBOSE | re.DOTALL,
)
DEFINED = re.compile(r"\b(?:def|class)\s+(\w+)|\.\s*(\w+)\s*=(?!=)")
KEPT_NAMES = frozenset(keyword.kwlist) | frozenset(dir(builtins))
NAME, NUMBER, STRING = "name", "0", "''"
OPENING, CLOSING = frozenset("([{"), frozenset(")]}")


class Token(NamedTuple):
    """What is compared, and where it stands in the source."""

    text: str
    start: int
    end: int


def normalised(source: str) -> list[Token]:
    """The tokens of a source without what can be changed and leave the code the same.

    Names, numbers and strings become one sign each; comments, layout, imports and docstrings
    go. Keywords, builtins and the attributes of others' objects stay: `torch.addmm` and
    `torch.softmax` differ, and nobody can rename them.
    """
    defined = {name for match in DEFINED.finditer(source) for name in match.groups() if name}
    tokens: list[Token] = []
    for match in _code(source):
        text = match.group()
        if match.lastgroup == "name":
            library = bool(tokens) and tokens[-1].text == "."
            text = text if _is_kept(text, library, defined) else NAME
        text = {"number": NUMBER, "string": STRING}.get(match.lastgroup or "", text)
        tokens.append(Token(text, *match.span()))
    return tokens


def _is_kept(name: str, library: bool, defined: set[str]) -> bool:
    return name not in defined if library else name in KEPT_NAMES


def _code(source: str) -> Iterator[re.Match[str]]:
    """The matches that are compared: no blanks, comments, line ends, imports, docstrings."""
    found = [m for m in TOKEN.finditer(source) if m.lastgroup not in {"blank", "comment"}]
    depth, begins, importing = 0, True, False
    for match, follows in zip(found, [*found, None][1:], strict=True):
        text = match.group()
        if text in {"def", "class"}:  # never inside brackets: one was left open
            depth, importing = 0, False
        if text in {"\n", ";"}:
            begins, importing = (True, False) if depth == 0 else (begins, importing)
            continue
        importing = importing or (begins and text in {"import", "from"})
        alone = begins and (follows is None or follows.lastgroup == "newline")
        if not (importing or (alone and match.lastgroup == "string")):
            yield match
        depth = max(0, depth + (text in OPENING) - (text in CLOSING))
        begins = False


def without_comments(source: str) -> str:
    """The source with its comments blanked; every other character keeps its place."""
    parts = (
        " " * len(match.group()) if match.lastgroup == "comment" else match.group()
        for match in TOKEN.finditer(source)
    )
    return "".join(parts)
