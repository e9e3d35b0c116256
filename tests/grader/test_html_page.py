"""Pages of untrusted text: nothing runs, nothing is loaded, nothing hides."""

import hashlib
import re
import shutil
import subprocess
from base64 import b64encode
from html import unescape
from pathlib import Path

import pytest

from grader.html_page import SHORT, box, page, paragraph, picture, pill, table, text

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGD4"
    "DwABBAEAX+XDSwAAAABJRU5ErkJggg=="
)
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '<a href="javascript:alert(1)">x</a>',
    '<p style="position:fixed" onclick="alert(1)">x</p>',
    "<svg><script>alert(1)</script></svg>",
    "<iframe src=https://example.org></iframe>",
    "<style>* { display: none }</style>",
    '<link rel=stylesheet href="https://example.org/x.css"><meta http-equiv=refresh content=0>',
    "<form action=https://example.org><input name=x></form>",
    '<img src="data:image/svg+xml;base64,PHN2Zy8+"><img src="https://example.org/x.png">',
]


def policy(html: str) -> str:
    (found,) = re.findall('http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    return str(found)


@pytest.mark.parametrize("evil", HOSTILE)
def test_a_hostile_body_is_sanitised(evil: str) -> None:
    body = page("t", evil).partition("<body>")[2]
    for sign in ("<script", "<svg", "<iframe", "<style", "<link", "<meta", "<form", "<input", "<a"):
        assert sign not in body
    for sign in ("javascript:", "onerror", "onclick", "style=", "example.org", "svg+xml", "src="):
        assert sign not in body


@pytest.mark.parametrize("evil", HOSTILE)
def test_hostile_text_stays_text(evil: str) -> None:
    body = paragraph(evil) + box(evil, heading=evil) + pill(evil) + table([evil], [[evil]])
    html = page(evil, body)
    assert unescape(html).count(evil) == 7
    assert not re.search("<(script|img|svg|iframe|a|form|link)", html)
    assert html.count("<style") == 1


def test_the_policy_allows_the_page_s_own_style_and_no_script() -> None:
    html = page("t", "<p>x</p>", style=".mine { color: red; }")
    rules = html.partition("<style>")[2].partition("</style>")[0]
    digest = b64encode(hashlib.sha256(rules.encode()).digest()).decode()
    assert ".mine" in rules
    assert policy(html) == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def test_a_png_is_shown_and_nothing_that_only_begins_like_one() -> None:
    good = page("t", picture(PIXEL, 'a "plot"', 300))
    assert f'<img src="data:image/png;base64,{PIXEL}" alt="a &quot;plot&quot;" width="300">' in good
    for bad in (PIXEL + "<b>", "x;base64," + PIXEL, PIXEL + "%22", ""):
        assert "src=" not in page("t", picture(bad, "plot")).partition("<body>")[2]


def test_text_cannot_move_hide_or_break_what_stands_beside_it() -> None:
    shown = text("a\u202eb\u2066c\u061cc\x1b[2Jd\0e\ud800f\nα é 😀")
    assert shown == "a�b�c�c�[2Jd�e�f\nα é 😀"
    page("\ud800", paragraph("\ud800")).encode()


def test_only_statuses_are_coloured() -> None:
    html = table(["Who", "Status"], [["BOB", "OK"], ["EVE", "TAMPER"], ["ADA", "PARTIAL"]])
    pills = re.findall('<span class="pill (.*?)">(.*?)</span>', html)
    assert pills == [("good", "OK"), ("bad", "TAMPER"), ("open", "PARTIAL")]


def test_columns_of_numbers_stand_to_the_right() -> None:
    rows = [["7", "3 / 4", "0.5 s", "9 of"], ["x", "—", "1 s", ""]]
    html = table(["Who", "Points", "Time", "Why"], rows)
    assert re.findall("<t[hd](?: .*?)?>", html) == [
        '<th scope="col">', '<th scope="col" class="number">', '<th scope="col" class="number">',
        '<th scope="col">',
        *(["<td>", '<td class="number">', '<td class="number">', "<td>"] * 2),
    ]  # fmt: skip
    assert "<th" in table(["empty"], [])


def test_a_column_of_long_text_may_be_broken_anywhere() -> None:
    html = table(["Who", "Why"], [["ada", "x"], ["ben", "x" * (SHORT + 1)]])
    assert html.count('<td class="long">') == 2
    assert "long" not in table(["Why"], [["x" * SHORT]])


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed")
def test_a_browser_runs_no_script_even_if_one_got_in(tmp_path: Path) -> None:
    html = page("quiet", "<p>x</p>").replace("<p>", "<p onclick=1>")
    script = "<script>document.title = 'ran'</script>"
    path = tmp_path / "page.html"
    titles = []
    for blocked in (html, html.replace("Content-Security-Policy", "X-Nothing")):
        path.write_text(blocked.replace("</body>", f"{script}</body>"), encoding="utf-8")
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        done = subprocess.run(
            [*command, f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        titles += re.findall("<title>(.*?)</title>", done.stdout)
    assert titles == ["quiet", "ran"]
