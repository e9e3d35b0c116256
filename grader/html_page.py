"""One way to make an HTML page of untrusted text: escape, sanitise, forbid everything by policy."""

from html import escape

import nh3

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)
TAGS = {"h1", "h2", "p", "table", "thead", "tbody", "tr", "th", "td"}
TAGS |= {"pre", "code", "ul", "li", "span"}
ATTRIBUTES = {"span": {"class"}, "td": {"class"}, "tr": {"class"}}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } th, td { padding: .3rem .8rem; text-align: left; }
tr { border-bottom: 1px solid #ccc; } td.number { text-align: right; }
pre { background: #f4f4f4; padding: .8rem; overflow-x: auto; }
.good { color: #05611f; font-weight: 600; } .bad { color: #9b1c1c; font-weight: 600; }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #e6e6e6; }
  pre { background: #262626; } .good { color: #7ddc98; } .bad { color: #ff9c9c; } }
"""


def page(title: str, body: str) -> str:
    """Wrap a body in a page that loads nothing and runs nothing, whatever the body says."""
    clean = nh3.clean(body, tags=TAGS, attributes=ATTRIBUTES)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n<body>\n{clean}\n"
        "</body></html>\n"
    )


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table of escaped cells; a cell that is OK or a failing status is coloured."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    lines = ["<tr>" + "".join(_cell(text) for text in row) + "</tr>" for row in rows]
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _cell(text: str) -> str:
    if text.isupper() and text.replace("_", "").isalpha():
        kind = "good" if text == "OK" else "bad"
        return f'<td><span class="{kind}">{escape(text)}</span></td>'
    number = ' class="number"' if text[:1].isdigit() else ""
    return f"<td{number}>{escape(text)}</td>"
