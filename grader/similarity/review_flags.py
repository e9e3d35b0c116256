"""What in an answer a person should look at; never a reason to give or take points."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from grader.python_tokens import without_comments

LINE_CHARACTERS = 100
FLAGS = {
    "reaches the kernel": r"\bget_ipython\b",
    "rewrites cells": r"\b(?:ast_transformers|input_transformers\w*)\b",
    "reaches memory": r"\b(?:ctypes|cffi)\b",
    "walks all objects": r"\bgc\s*\.\s*get_\w+|\bget_(?:objects|referrers|referents)\b",
    "traces running code": r"\b(?:settrace|setprofile)\b|\bsys\s*\.\s*monitoring\b",
    "walks the stack": r"\b(?:_getframe|_current_frames|f_back|currentframe|getouterframes)\b"
    r"|\binspect\s*\.\s*(?:stack|trace)\b|\bfrom\s+inspect\s+import\b",
    "runs text as code": r"(?<![\w.])(?:exec|eval|compile)\s*\(",
    "decodes text": r"\b(?:base64|[ab](?:16|32|64|85)decode|fromhex|unhexlify|codecs|marshal|zlib"
    r"|rot_?13)\b",
    "asks for the grader": r"NBGRADER_",
    "starts programs": r"\bsubprocess\b|\.\s*(?:system|popen)\s*\(|\bos\s*\.\s*(?:fork|exec|spawn"
    r"|posix_spawn)\w*|\bfrom\s+os\s+import\b|^[^\S\n]*(?:!|%%?(?:bash|sh|script|system|sx)\b)",
    "opens connections": r"\b(?:socket|urllib|httpx|ftplib)\b|\bhttp\s*\.\s*client\b"
    r"|\bimport\s+requests\b",
}
PATTERNS = {name: re.compile(pattern, re.MULTILINE) for name, pattern in FLAGS.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """One place in one answer."""

    student: str
    cell: str
    flag: str
    line: int
    text: str


def flags(student: str, cell: str, source: str, released: str) -> Iterator[Flag]:
    """The first place of each kind in an answer; lines of the release are passed over."""
    code, lines = without_comments(source), source.split("\n")
    known = set(released.split("\n"))
    for name, pattern in PATTERNS.items():
        for match in pattern.finditer(code):
            number = code.count("\n", 0, match.start()) + 1
            text = lines[number - 1]
            if text not in known:
                short = text.strip()[:LINE_CHARACTERS]
                yield Flag(student=student, cell=cell, flag=name, line=number, text=short)
                break
