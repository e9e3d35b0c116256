"""Cleaning of docstrings: indentation, call lines of C functions, summary sentences."""

import inspect
import re

SUMMARY_LENGTH = 240

_CALL = re.compile(r"^[\w.]+\(.*?\)\s*(?:(?:->|--)\s*(?P<result>.*))?\.?$")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`'\"(*])")
_DOCTEST_OPTION = re.compile(r"[ \t]*#[ \t]*doctest:.*$", re.MULTILINE)


def clean(doc: str) -> str:
    """Dedent, drop trailing blanks, doctest options and runs of empty lines; keep the examples."""
    text = _DOCTEST_OPTION.sub("", inspect.cleandoc(doc))
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def without_call_lines(text: str) -> str:
    """Drop "range(stop) -> range object" lines that start the documentation of C functions.

    Where nothing else is said, the result is kept as a sentence: "Return range object".
    """
    lines = text.split("\n")
    results: list[str] = []
    while lines and ((match := _CALL.match(lines[0])) or (results and lines[0].startswith("  "))):
        results += [match["result"] or ""] if match else []
        lines.pop(0)
    rest = "\n".join(lines).strip()
    result = next(filter(None, results), "")
    if results and rest and lines[0][:1].islower():
        return f"Return {results[-1]} {rest}"  # the sentence after the arrow went on
    if rest or not result:
        return rest
    _, found, sentence = result.partition("None.")
    return sentence.strip() if found and sentence.strip() else f"Return {result}"


def summary(text: str) -> str:
    """The first paragraph on one line, cut after a sentence before `SUMMARY_LENGTH` characters."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    sentences = _SENTENCE_END.split(paragraph)
    kept = sentences[0]
    for sentence in sentences[1:]:
        if len(kept) + 1 + len(sentence) > SUMMARY_LENGTH:
            break
        kept = f"{kept} {sentence}"
    kept = kept.rstrip(" :;,-")
    return kept if not kept or kept[-1] in ".!?" else f"{kept}."


def normalised(text: str) -> str:
    """Lower case, single spaces, no full stop: two texts that read the same compare equal."""
    return " ".join(text.lower().split()).rstrip(".")
