"""JupyterLab's tile "Check this lab": it is installed, it checks what is on the screen."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_core.paths import jupyter_path

from .jupyter_page import TOKEN, Page, chromium, jupyterlab

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "grader" / "launcher" / "page"
PICTURES = ROOT / "reports" / "walk"
LAB = "lab03_lora"
TILE = '.jp-LauncherCard[title="Run the checks of the lab in this folder"]'
IN_PALETTE = '.lm-CommandPalette-item[data-command="llm-engineering-lab:check"]'
TEXT = """(() => {
    const terminal = window.jupyterapp?.shell.currentWidget?.content?._term, lines = [];
    for (let i = 0; i < terminal?.buffer.active.length; i++)
        lines.push(terminal.buffer.active.getLine(i).translateToString(true));
    return lines.join('\\n');
})()"""

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server on a learner's copy of the lab, in a folder whose name a shell would split."""
    course = tmp_path_factory.mktemp("my course")
    shutil.copy(ROOT / "nbgrader_config.py", course)
    for path in (f"labs/{LAB}", "empty"):
        (course / path).mkdir(parents=True)
    shutil.copy(ROOT / "labs" / LAB / f"{LAB}.ipynb", course / "labs" / LAB)
    with jupyterlab(course, tmp_path_factory.mktemp("jupyter")) as url:
        yield url


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def solution(grade_id: str) -> str:
    notebook = json.loads((ROOT / "solutions" / LAB / f"{LAB}.ipynb").read_text(encoding="utf-8"))
    cells = {c["metadata"].get("nbgrader", {}).get("grade_id"): c for c in notebook["cells"]}
    return "".join(cells[grade_id]["source"])


def terminal_text(page: Page, words: str) -> str:
    """What the terminal shows once it shows `words`."""
    page.until(f"{TEXT}.includes(arguments[0])", words)
    return str(page.until(TEXT))


def test_the_installed_files_are_the_ones_here() -> None:
    for path in (path for path in PAGE.rglob("*") if path.is_file()):
        name = Path("labextensions", "llm-engineering-lab", path.relative_to(PAGE))
        installed = [Path(folder) / name for folder in jupyter_path()]
        found = next((place.read_bytes() for place in installed if place.is_file()), None)
        assert found == path.read_bytes(), f"run `pip install -e .` again: {name} is out of date"


def test_the_tile_checks_the_lab_of_the_folder(page: Page, address: str) -> None:
    page.visit(f"{address}/lab/tree/labs/{LAB}?token={TOKEN}&reset")
    page.until(f"document.querySelector('{TILE}')")
    page.shoot(PICTURES / "launcher.png")
    page.until(f"(document.querySelector('{TILE}').click(), true)")
    text = terminal_text(page, "exercises pass")
    page.shoot(PICTURES / "launcher_check.png")
    assert f"{LAB}: {LAB}.ipynb, as saved on" in text
    assert "to do    diagnose                   0/6  diagnose is not written yet" in text
    assert "0 of 6 exercises pass. 0 of 32 points so far." in text


def test_the_command_saves_the_open_notebook_first(page: Page, address: str) -> None:
    page.open_notebook(address, f"labs/{LAB}/{LAB}.ipynb")
    page.run_cell("def lora_delta(", solution("lora_delta"))
    assert page.until("window.jupyterapp.shell.currentWidget.context.model.dirty")
    page.driver.execute_script(
        "window.jupyterapp.commands.execute('apputils:activate-command-palette')"
    )
    page.until(f"document.querySelector('{IN_PALETTE}')")
    page.until(f"(document.querySelector('{IN_PALETTE}').click(), true)")
    text = terminal_text(page, "exercises pass")
    page.shoot(PICTURES / "launcher_progress.png")
    assert "OK       lora_delta                 4/4" in text
    assert "1 of 6 exercises pass. 4 of 32 points so far." in text


def test_elsewhere_the_tile_says_where_to_go(page: Page, address: str) -> None:
    page.visit(f"{address}/lab/tree/empty?token={TOKEN}&reset")
    page.until(f"document.querySelector('{TILE}')")
    page.until(f"(document.querySelector('{TILE}').click(), true)")
    text = terminal_text(page, "grader: ")
    assert "go to the lab's folder, or name the lab" in " ".join(text.split())
