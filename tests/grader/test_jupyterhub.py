"""The JupyterHub recipe: its settings load, its commands exist, its exchange brings work back."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

from grader.cli import main as command
from grader.cli.command_line import build_parser
from grader.course import Course
from grader.notebooks import read_notebook, write_notebook
from grader.solved import without_markers
from grader.transplant import transplant

LAB = "lab03_lora"
TEXT = (Path(__file__).parents[2] / "docs" / "jupyterhub.md").read_text(encoding="utf-8")
SETTINGS = re.findall(r"`(/etc/\S+\.py)`.*?```python\n(.*?)```", TEXT, re.DOTALL)
SHELL = [
    line.removeprefix("*/10 * * * * cd /srv/course && ")
    for language, block in re.findall(r"```(\w*)\n(.*?)```", TEXT, re.DOTALL)
    if language != "python"
    for line in block.splitlines()
]
MODULES = {
    "JupyterHub": "jupyterhub.app",
    "Authenticator": "jupyterhub.auth",
    "Spawner": "jupyterhub.spawner",
    "CourseDirectory": "nbgrader.coursedir",
    "Exchange": "nbgrader.exchange.default",
}


def loaded(folder: Path, text: str) -> Config:
    (folder / "settings.py").write_text(text)
    return PyFileConfigLoader("settings.py", path=str(folder)).load_config()


def test_there_are_two_files_of_settings() -> None:
    names = [Path(name).name for name, _ in SETTINGS]
    assert names == ["jupyterhub_config.py", "nbgrader_config.py"]


@pytest.mark.parametrize("text", [text for _, text in SETTINGS])
def test_every_setting_is_one_that_the_program_has(tmp_path: Path, text: str) -> None:
    config = loaded(tmp_path, text)
    assert config
    for name, settings in config.items():
        if importlib.util.find_spec(MODULES[name].partition(".")[0]) is None:
            continue  # JupyterHub is the server's, not the course's
        traits = getattr(import_module(MODULES[name]), name).class_traits(config=True)
        assert set(settings) <= set(traits), name


def test_the_hubs_settings_agree_with_the_commands(tmp_path: Path) -> None:
    hub, nbgrader = (loaded(tmp_path, text) for _, text in SETTINGS)
    assert hub.Spawner.cmd == ["/opt/llm-lab/bin/jupyterhub-singleuser"]
    assert hub.Spawner.environment["PATH"].startswith("/opt/llm-lab/bin:")
    assert f"LABKIT_CACHE={hub.Spawner.environment['LABKIT_CACHE']} " in TEXT
    inbound = f"{nbgrader.Exchange.root}/{nbgrader.CourseDirectory.course_id}/inbound"
    assert f"grader collect {LAB} {inbound} --from exchange" in SHELL


@pytest.mark.parametrize("line", [line for line in SHELL if line.startswith("grader ")])
def test_grader_knows_every_command(line: str) -> None:
    build_parser(command.COMMANDS).parse_args(shlex.split(line)[1:])


def hand_out_feedback(course: Course, student: str, folder: Path) -> None:
    """Run the recipe's loop; an account's own group is called like it."""
    page = course.feedback(LAB, student)
    page.parent.mkdir(parents=True)
    page.write_text("well done")
    (loop,) = re.findall(r"```bash\n(for page .*?done)\n```", TEXT, re.DOTALL)
    group = subprocess.run(["id", "-gn"], capture_output=True, text=True, check=True).stdout.strip()
    loop = loop.replace('-g "$student"', f"-g {group}").replace("/srv/feedback", str(folder))
    subprocess.run(["bash", "-ec", loop], cwd=course.root, check=True)
    given = folder / student / f"{LAB}.html"
    assert given.read_text() == "well done"
    assert [oct(path.stat().st_mode & 0o777) for path in (given.parent, given)] == [
        "0o750",
        "0o640",
    ]


def test_the_exchange_brings_a_submission_back(course: Course, tmp_path: Path) -> None:
    """Hand out, hand in and collect, by the recipe's commands and its nbgrader settings."""
    instructor, exchange = Course(root=tmp_path / "course"), tmp_path / "exchange"
    for folder in ("solutions", "labs"):
        shutil.copytree(course.root / folder, instructor.root / folder)
    shutil.copy(course.root / "nbgrader_config.py", instructor.root)
    solved = without_markers(read_notebook(course.source(LAB)))
    answers = transplant(read_notebook(course.release(LAB)), solved).notebook
    learner = tmp_path / "home" / "llm-engineering-lab"
    write_notebook(learner / "labs" / LAB / f"{LAB}.ipynb", answers)
    template = Path(command.__file__).parents[1] / "release" / "student_templates"
    shutil.copy(template / "nbgrader_config.py.template", learner / "nbgrader_config.py")
    exchange.mkdir()
    exchange.chmod(0o777)
    settings = tmp_path / "settings"
    settings.mkdir()
    text = dict(SETTINGS)["/etc/jupyter/nbgrader_config.py"]
    assert "/srv/nbgrader/exchange" in text
    text = text.replace("/srv/nbgrader/exchange", str(exchange))
    (settings / "nbgrader_config.py").write_text(text)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "JUPYTER_CONFIG_PATH": str(settings),
        "JUPYTER_DATA_DIR": str(tmp_path / "data"),
    }

    def run(line: str, folder: Path) -> None:
        assert line in SHELL or line.replace(str(exchange), "/srv/nbgrader/exchange") in SHELL
        done = subprocess.run(
            shlex.split(line),
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    run(f"nbgrader release_assignment {LAB}", instructor.root)
    run(f"nbgrader submit {LAB}", learner)
    run(f"grader collect {LAB} {exchange}/llm/inbound --from exchange", instructor.root)
    (student,) = instructor.students(LAB)
    hand_out_feedback(instructor, student, tmp_path / "given")
    handed_in = instructor.submitted(LAB, student).read_bytes()
    assert handed_in == (learner / "labs" / LAB / f"{LAB}.ipynb").read_bytes()
