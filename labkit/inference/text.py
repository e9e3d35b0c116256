"""Text out of tokens as they come: no broken character, no stop string, nothing lost."""

from typing import Protocol, runtime_checkable

BROKEN = "\N{REPLACEMENT CHARACTER}"


@runtime_checkable
class Decodes(Protocol):
    """The part of `labkit.model.tokenizer.Tokenizer` that turns ids into text."""

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str: ...


class TextAssembler:
    """Joins tokens to text in pieces that are final once they are given out.

    Two things are held back: tokens that end inside a character (its UTF-8 bytes lie in several
    tokens) and an end that may grow into a stop string. Each token costs a decode of the few
    tokens since the last complete character, not of the whole text.

    Args:
        tokenizer: Decodes ids; byte-level tokenizers show an incomplete character as U+FFFD.
        stop: Strings that end the text; the earliest one cuts it.
    """

    def __init__(self, tokenizer: Decodes, stop: tuple[str, ...] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._window: list[int] = []  # tokens still decoded together: context, then open ones
        self._context = 0  # how many of them are settled
        self._shown = 0  # characters of the window's text that belong to it
        self._held = ""  # settled characters that may begin a stop string
        self.stopped = False

    def push(self, token: int, *, may_stop: bool = True) -> str:
        """Take one token and return the text that has become final, often nothing.

        Args:
            token: Its id.
            may_stop: Whether a stop string that this token completes ends the text.
        """
        self._window.append(token)
        text = self._decode(self._window)
        if text.endswith(BROKEN):
            return ""
        fresh = text[self._shown :]
        self._window = self._window[self._context :]
        self._context = len(self._window)
        self._shown = len(self._decode(self._window))
        return self._take(fresh, may_stop)

    def finish(self, *, may_stop: bool = True) -> str:
        """The rest of the text after the last token, incomplete characters as U+FFFD."""
        piece = self._take(self._decode(self._window)[self._shown :], may_stop)
        if self.stopped:
            return piece
        piece, self._held = piece + self._held, ""
        return piece

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special=True)

    def _take(self, fresh: str, may_stop: bool) -> str:
        """Give out `fresh` up to a stop string, or up to what may become one."""
        if self.stopped:
            return ""
        text, old = self._held + fresh, len(self._held)
        # What ends within the held text was not to stop it: only new characters complete a stop.
        found = [text.find(stop, max(0, old - len(stop) + 1)) for stop in self._stop]
        cuts = [at for at in found if at >= 0]
        if cuts and may_stop:
            self.stopped, self._held = True, ""
            return text[: min(cuts)]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`, short of all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
