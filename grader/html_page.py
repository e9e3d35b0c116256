"""One way to make an HTML page of untrusted text: escape, sanitise, forbid everything by policy.

A page has no script, loads nothing, and allows one style, named by its hash. Bodies are made of
escaped text; what they are made into is sanitised once more.
"""

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape

import nh3

from grader.results import Status

TAGS = {"h1", "h2", "h3", "p", "pre", "code", "span", "strong", "ul", "li", "dl", "dt", "dd"}
TAGS |= {"table", "thead", "tbody", "tr", "th", "td", "caption", "div", "header", "section"}
TAGS |= {"details", "summary", "figure", "figcaption", "img", "meter"}
ATTRIBUTES = {
    "*": {"class"},
    "img": {"src", "alt", "width", "height"},
    "meter": {"value", "max", "aria-label"},
    "th": {"scope"},
}
PNG = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]+={0,2}")
STATUSES = {status.value for status in Status}
GOOD, OPEN = {Status.OK.value}, {Status.PARTIAL.value, Status.BLOCKED.value}
NUMBER = re.compile(r"[-+−]?\d[\d.,]*( ?(/|of) ?[\d.,]+)?( ?(s|%|points))?( \(\d+ ?%\))?|—")
SHORT = 40  # characters up to which a cell is not broken within a word
CONTROLS = {*range(32), *range(127, 160)} - {ord("\n"), ord("\t")}
REORDERING = {0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}
HALVES = range(0xD800, 0xE000)  # of surrogate pairs: no text of theirs can be written
UNREADABLE = dict.fromkeys([*CONTROLS, *REORDERING, *HALVES], "\N{REPLACEMENT CHARACTER}")

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --line: #d8dee4;
  --paper: #ffffff; --card: #f6f8fa; --good: #116329; --good-bg: #dafbe1; --bad: #a40e26;
  --bad-bg: #ffebe9; --open: #7d4e00; --open-bg: #fff1c9; --accent: #14213d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9aa4af; --line: #3a424b;
  --paper: #15191e; --card: #1e242b; --good: #7ee2a0; --good-bg: #12351f; --bad: #ff9a92;
  --bad-bg: #471a1c; --open: #f0c862; --open-bg: #3d2f0b; --accent: #9fb7d9; } }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .4rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; } h3 { font-size: 1.05rem; margin: 0; }
p { margin: .5rem 0; } .soft, caption, figcaption { color: var(--soft); font-size: .92rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .95rem; }
caption { text-align: left; padding: .2rem 0; }
th, td { padding: .4rem .7rem; text-align: left; vertical-align: top; overflow-wrap: normal; }
th { color: var(--soft); font-weight: 600; font-size: .88rem; }
tr { border-bottom: 1px solid var(--line); }
.number { text-align: right; }
td.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
td.long { min-width: 13rem; overflow-wrap: anywhere; }
.pill { display: inline-block; padding: .05rem .55rem; border-radius: 1rem; font-size: .8rem;
  font-weight: 600; white-space: nowrap; }
.good { color: var(--good); background: var(--good-bg); }
.bad { color: var(--bad); background: var(--bad-bg); }
.open { color: var(--open); background: var(--open-bg); }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .4rem;
  padding: .7rem .9rem; font: .86rem/1.5 ui-monospace, monospace; tab-size: 4;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.box { border-left: .3rem solid var(--line); background: var(--card); padding: .6rem 1rem;
  border-radius: .3rem; margin: 1rem 0; }
.box p { white-space: pre-wrap; }
.box.bad { border-color: var(--bad); color: var(--ink); background: var(--bad-bg); }
.box.open { border-color: var(--open); color: var(--ink); background: var(--open-bg); }
img { max-width: 100%; height: auto; background: #ffffff; border-radius: .3rem; }
figure { margin: 0; } .figures { display: grid; gap: 1.2rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); }
meter { width: 100%; height: 1rem; }
details { border-bottom: 1px solid var(--line); }
summary { cursor: pointer; padding: .5rem 0; font-weight: 600; }
@media (max-width: 36rem) { body { font-size: 15px; padding-top: 1rem; }
  table { font-size: .87rem; } .pill { font-size: .72rem; padding: .05rem .4rem; }
  th, td { padding: .35rem .3rem; } h1 { font-size: 1.4rem; } }
@media print { :root { color-scheme: light; --ink: #000; --soft: #444; --line: #bbb; --paper: #fff;
  --card: #f6f6f6; --good: #0a4d1e; --good-bg: #fff; --bad: #8a0d20; --bad-bg: #fff;
  --open: #5f3b00; --open-bg: #fff; --accent: #14213d; } body { font-size: 10.5pt; max-width: none;
  padding: 0; }
  .scroll { overflow: visible; } figure, tr { break-inside: avoid; }
  h2, h3, section header { break-after: avoid; }
  .pill { border: 1px solid currentColor; } }
"""


def page(title: str, body: str, *, style: str = "") -> str:
    """Wrap a body in a page that loads nothing and runs nothing, whatever the body says.

    Args:
        title: The page's title, as text.
        body: HTML; what is not on the lists above is dropped.
        style: Rules of this page's own, after those of every page.
    """
    clean = nh3.clean(
        body,
        tags=TAGS,
        attributes=ATTRIBUTES,
        attribute_filter=_only_png,
        url_schemes={"data"},
        link_rel=None,
    )
    rules = STYLE + style
    digest = b64encode(hashlib.sha256(rules.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{rules}</style></head>\n<body>\n{clean}\n"
        "</body></html>\n"
    )


def _only_png(tag: str, attribute: str, value: str) -> str | None:
    return value if (tag, attribute) != ("img", "src") or PNG.fullmatch(value) else None


def text(untrusted: str) -> str:
    """Untrusted text as HTML: markup and what would reorder or hide other text stay visible."""
    return escape(untrusted.translate(UNREADABLE))


def paragraph(untrusted: str, kind: str = "") -> str:
    return f'<p class="{kind}">{text(untrusted)}</p>' if kind else f"<p>{text(untrusted)}</p>"


def pill(status: str) -> str:
    """A status in its colour; what is none looks like something that is open."""
    kind = "good" if status in GOOD else "bad" if status in STATUSES - OPEN else "open"
    return f'<span class="pill {kind}">{text(status)}</span>'


def box(untrusted: str, kind: str = "", heading: str = "") -> str:
    """A paragraph that stands out; `kind` is "good", "open" or "bad"."""
    above = f"<p><strong>{text(heading)}</strong></p>" if heading else ""
    return f'<div class="box {kind}">{above}{paragraph(untrusted)}</div>'


def picture(png: str, alt: str, width: int | None = None) -> str:
    """A PNG given as base64. A picture that is none is dropped by `page`."""
    size = f' width="{width}"' if width else ""
    return f'<img src="data:image/png;base64,{png}" alt="{text(alt)}"{size}>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "") -> str:
    """A table of untrusted text; columns of numbers stand to the right, a status in its colour."""
    rows = [*rows]
    kinds = [_kind(column) for column in zip(*rows, strict=True)] or [""] * len(header)
    head = "".join(
        f'<th scope="col"{kind}>{text(name)}</th>' for name, kind in zip(header, kinds, strict=True)
    )
    lines = [
        "<tr>"
        + "".join(_cell(value, kind) for value, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for row in rows
    ]
    above = f"<caption>{text(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table>{above}<thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _kind(column: Sequence[str]) -> str:
    if all(map(NUMBER.fullmatch, column)):
        return ' class="number"'
    return ' class="long"' if max(map(len, column)) > SHORT else ""


def _cell(value: str, kind: str) -> str:
    return f"<td{kind}>{pill(value) if value in STATUSES else text(value)}</td>"
