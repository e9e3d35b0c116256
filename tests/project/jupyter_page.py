"""A real JupyterLab server and a headless Chromium in front of it, for the walk."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

TOKEN = "walk"
SECONDS = 120
APP = "const app = window.jupyterapp, panel = app.shell.currentWidget, book = panel.content;"


@contextmanager
def jupyterlab(root: Path, settings: Path) -> Iterator[str]:
    """Serve `root` on a free port, with settings of its own; yields the base address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"),
        *(f"--port={port}", f"--IdentityProvider.token={TOKEN}", "--expose-app-in-browser"),
        f"--LabApp.workspaces_dir={settings / 'workspaces'}",
        f"--LabApp.user_settings_dir={settings / 'user'}",
    ]
    environment = {**os.environ, "JUPYTER_CONFIG_DIR": str(settings)}
    quiet = settings / "user" / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True)
    (quiet / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    with (settings / "server.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(f"{address}/api/status?token={TOKEN}")
            yield address
        finally:
            server.terminate()
            server.wait(timeout=30)


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"{url} did not answer within {SECONDS} s")


@contextmanager
def chromium(profile: Path) -> Iterator["Page"]:
    """A headless Chromium with an empty profile."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("chromium-browser") or ""
    for flag in (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--user-data-dir={profile}", "--window-size=1300,1500", "--disable-dev-shm-usage"),
    ):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.set_script_timeout(SECONDS)
    try:
        yield Page(driver)
    finally:
        driver.quit()


class Page:
    """What a person does in JupyterLab: open a notebook, edit a cell, run it, look."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def sign_in(self, address: str) -> None:
        """Get the cookie that pages are let in by which ask the server for more."""
        self.visit(f"{address}/api/status?token={TOKEN}")

    def visit(self, url: str) -> None:
        self.driver.get(url)

    def until(self, script: str, *arguments: Any) -> Any:
        """Wait until a JavaScript expression is true and return its value."""
        wait = WebDriverWait(self.driver, SECONDS)
        return wait.until(lambda driver: driver.execute_script(f"return {script}", *arguments))

    def until_true(self, condition: Callable[[], bool]) -> None:
        """Wait until something outside the page is as it should be."""
        WebDriverWait(self.driver, SECONDS).until(lambda _: condition())

    def type_into(self, selector: str, text: str) -> None:
        """Replace what stands in a field by typing, and leave the field."""
        self.scroll_to(selector)
        field = self.driver.find_element(By.CSS_SELECTOR, selector)
        field.clear()
        field.send_keys(text, Keys.TAB)

    def open_notebook(self, address: str, path: str) -> None:
        """Open a notebook and wait for its kernel."""
        self.visit(f"{address}/lab/tree/{path}?token={TOKEN}&reset")
        self.until(
            "window.jupyterapp?.shell.currentWidget?.content?.widgets?.length > 2 && window"
            ".jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'"
        )

    def run_cell(self, marker: str, new_source: str | None = None) -> str:
        """Run the one code cell containing `marker`, its source replaced if given.

        Returns:
            Its outputs as text: streams, values, and the message of an error.
        """
        script = f"""
            const [marker, source] = arguments, done = arguments[arguments.length - 1];
            {APP}
            const index = book.widgets.findIndex(
                w => w.model.type === 'code' && w.model.sharedModel.source.includes(marker));
            if (index < 0) {{ done('no cell with ' + marker); return; }}
            const cell = book.widgets[index];
            if (source !== null) cell.model.sharedModel.setSource(source);
            book.activeCellIndex = index;
            app.commands.execute('notebook:run-cell')
                .then(() => {{
                    cell.node.scrollIntoView({{block: 'center'}});
                    done(JSON.stringify(cell.model.outputs.toJSON()));
                }});
        """
        answer = self.driver.execute_async_script(script, marker, new_source)
        assert answer.startswith("["), answer
        return "\n".join(_text(output) for output in json.loads(answer))

    def scroll_to(self, selector: str) -> None:
        """Bring the first element that matches a CSS selector into the middle."""
        self.driver.execute_script(
            "document.querySelector(arguments[0]).scrollIntoView({block: 'center'})", selector
        )

    def shoot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(path))


def _text(output: dict[str, Any]) -> str:
    if output["output_type"] == "error":
        return f"{output['ename']}: {output['evalue']}"
    text = output.get("text") or output.get("data", {}).get("text/plain", "")
    return text if isinstance(text, str) else "".join(text)
