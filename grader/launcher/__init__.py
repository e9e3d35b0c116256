"""JupyterLab's launcher entry "Check this lab", and the server extension that it needs.

The entry itself is `static/remoteEntry.js`. Installing the course copies the files here to where
Jupyter looks for them: see `[tool.setuptools.data-files]` in pyproject.toml.
"""

import shlex
import sys
from pathlib import Path
from typing import Any


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "grader.launcher"}]


def _load_jupyter_server_extension(server: Any) -> None:
    """Tell the page which `grader` belongs to this server; a terminal's PATH may lack it."""
    program = shlex.quote(str(Path(sys.executable).with_name("grader")))
    server.web_app.settings.setdefault("page_config_data", {})["graderProgram"] = program
