"""Single tokens as text, for lists of log-probabilities."""

from functools import lru_cache

from labkit.model.tokenizer import Tokenizer

BROKEN = "\N{REPLACEMENT CHARACTER}"


@lru_cache(maxsize=65536)
def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token's text; `bytes:\\xe2\\x80` where it is only a part of a character.

    That is OpenAI's way to write them, and keeps tokens apart which all decode to U+FFFD.
    """
    text = tokenizer.decode([token], skip_special=False)
    if text and BROKEN not in text:
        return text
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token_bytes(tokenizer, token))


@lru_cache(maxsize=65536)
def token_bytes(tokenizer: Tokenizer, token: int) -> bytes:
    """The bytes a token stands for; of a tokenizer that is not byte-level, those of its text."""
    try:
        return tokenizer.token_bytes(token)
    except ValueError:
        return tokenizer.decode([token], skip_special=False).encode()
