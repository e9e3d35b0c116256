"""The three kinds of pages in a real Chromium: nothing is blocked, nothing overflows a phone."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from grader.reports import class_report, student_page
from grader.similarity.compare import Settings, Similarity
from grader.similarity.own_code import Given, own_code
from grader.similarity.page import render
from grader.similarity.pairs import find_pairs
from grader.similarity.review_flags import Flag

from .made_up import LAB, cell, made, notebook, submission

WIDE = 400 * "x"
CODE = "\n".join(f"x.part{at}(a, b)[c] = d.part{at}({{}})" for at in range(9)) + f"\n# {WIDE}"
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed"),
]


def similar() -> str:
    nothing = Given(released=frozenset(), reference=frozenset())
    submissions = own_code({n: {"f": CODE} for n in ("ada", "ben")}, nothing, limit=10)
    pairs, _ = find_pairs(submissions, least=16)
    assert pairs
    flag = Flag(student="ada", cell="f", flag="runs text as code", line=1, text=WIDE[:100])
    return render(
        Similarity(
            lab=LAB, settings=Settings(), submissions=tuple(submissions), pairs=tuple(pairs),
            groups=(), flags=(flag,), common_limit=10, notes=(WIDE,),
        )
    )  # fmt: skip


def pages() -> Iterator[tuple[str, str]]:
    wrong = cell(message=f"f raised ValueError: {WIDE}. Hint: {WIDE}")
    result = submission(wrong, cell(hidden=True, message="wrong"), notes=(WIDE,))
    work = notebook(
        made("delta", CODE, solution=True),
        made("essay", WIDE, "markdown", grade=True, solution=True),
    )
    yield "feedback", student_page.render(result, work)
    yield "class", class_report.render(LAB, [result], refused=[("a.zip", WIDE)])
    yield "similar", similar().replace("<details>", "<details open>")
    yield "other style", similar().replace("--ink: #1b1f24", "--ink: #1b1f25")


def test_nothing_is_blocked_and_no_line_is_wider_than_a_phone(tmp_path: Path) -> None:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    seen = {}
    try:
        for name, html in pages():
            path = tmp_path / "page.html"
            path.write_text(html, encoding="utf-8")
            phone = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
            driver.get(path.as_uri())
            width = driver.execute_script("return document.documentElement.scrollWidth")
            log = [entry["message"] for entry in driver.get_log("browser")]
            seen[name] = (width, any("Content Security Policy" in line for line in log))
    finally:
        driver.quit()
    assert {name: seen[name] for name in ("feedback", "class", "similar")} == dict.fromkeys(
        ("feedback", "class", "similar"), (390, False)
    )
    assert seen["other style"][1]
