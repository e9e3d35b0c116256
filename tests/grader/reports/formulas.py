"""Texts that a spreadsheet would run, and how to tell."""

FORMULAS = [
    "=",
    "=1+1",
    "+1",
    "-1",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "\n=1",
    " =1",
    "\u00a0=1",
    "\u200b=1",
    "\ufeff=1",
    "\0=1",
    '"=1',
    "'=1",
    ' " =1',
    "“=1",
    "＝1",
    "＋1",
    "－1",
    "＠1",
    "﹦1",
    "\u22121",
    "=cmd|' /C calc'!A0",
    '=HYPERLINK("https://example.org","x")',
]


def is_formula(text: str) -> bool:
    """What OWASP says a cell must not begin with, also behind blanks and quotes.

    A hyphen alone computes nothing: it is Moodle's word for no grade.
    """
    begins = text.lstrip(' \t\r\n\0"\u00a0\u200b\ufeff“”`')
    return text != "-" and begins.startswith(tuple("=+-@＝＋－＠﹦\u2212"))
