"""The files of the learners' repository: copied, reduced to what learners run, or filled in."""

import json
import re
import shutil
import string
import tomllib
from modulefinder import ModuleFinder
from pathlib import Path

from grader.box.content import GRADER_FILES, LAB_FILES
from grader.checks import stored
from grader.checks.core import load_lab
from grader.course import Course
from grader.notebooks import Notebook, read_notebook, source
from grader.release import learner_code

TEMPLATES, TEMPLATE = Path(__file__).parent / "student_templates", ".template"
FILLED = frozenset({"README.md", "pyproject.toml"})
ENTRIES = ("grader.cli.learner", "grader.checks.learner", "grader.checks.stored")
COPIED = ("LICENSE", ".gitignore", "setup.py", "scripts/start.py")
COPIED_FOLDERS = ("labkit", "datasets", "grader/launcher")
TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
MINUTES = re.compile(r"\*\*Time:\*\*\D*(\d+) minutes")
LAB_MODULE = '''"""The public checks of {lab}; their values are stored beside this file."""

from pathlib import Path

from grader.checks.stored import read

LAB = read(Path(__file__).parent)
'''


def build(course: Course, folder: Path) -> None:
    """Write all files of the repository into an empty folder.

    Raises:
        ValueError: Learners' code would import a module that they do not get.
    """
    for name in COPIED:
        _copy(course.root / name, folder / name)
    for name in COPIED_FOLDERS:
        _copy_tree(course.root / name, folder / name)
    for path in sorted((course.root / "chapters").glob("*/*.ipynb")):
        _copy(path, folder / path.relative_to(course.root))
    for lab in course.labs():
        _build_lab(course, lab, folder)
    _build_grader(course, folder)
    _fill_templates(course, folder)


def _build_lab(course: Course, lab: str, folder: Path) -> None:
    """The released notebook with its files, and in `grader/labs` what its cells import."""
    definition = load_lab(lab)
    for name in (f"{lab}.ipynb", *definition.files):
        _copy(course.release(lab).with_name(name), folder / "labs" / lab / name)
    code, made = course.root / "grader" / "labs" / lab, folder / "grader" / "labs" / lab
    for name in (*LAB_FILES, "outside.py"):
        if (code / name).is_file():
            _copy(code / name, made / name)
    (made / "check.py").write_text(LAB_MODULE.format(lab=lab), encoding="utf-8")
    stored.write(definition, made)
    notebook = read_notebook(course.release(lab))
    if used := learner_code.names_from(notebook, f"grader.labs.{lab}.recipe"):
        text = (code / "recipe.py").read_text(encoding="utf-8")
        (made / "recipe.py").write_text(learner_code.reduced(text, used), encoding="utf-8")


def _build_grader(course: Course, folder: Path) -> None:
    """The modules behind a learner's commands and check cells."""
    in_the_box = [_module(name) for name in GRADER_FILES]
    for path in learner_code.modules(course.root, [*ENTRIES, *in_the_box]):
        _copy(path, folder / path.relative_to(course.root))
    if missing := [*_unresolved(folder), *_unresolved_in_notebooks(course, folder)]:
        raise ValueError(f"learners' code imports {', '.join(missing)}, which they do not get")


def _module(name: str) -> str:
    """`box/__init__.py` is `grader.box`."""
    return "grader." + name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def _unresolved(folder: Path) -> list[str]:
    finder = ModuleFinder(path=[str(folder)], excludes=["labkit"])
    for path in sorted((folder / "grader").rglob("*.py")):
        finder.import_hook(".".join(path.relative_to(folder).with_suffix("").parts))
    return sorted(name for name in finder.badmodules if name.startswith("grader."))


def _unresolved_in_notebooks(course: Course, folder: Path) -> list[str]:
    """Modules of the course that a lecture or a lab imports and that are not in the folder."""
    notebooks = [*folder.glob("chapters/*/*.ipynb"), *folder.glob("labs/*/*.ipynb")]
    names = {name for path in notebooks for name in learner_code.imported(read_notebook(path))}
    return sorted(n for n in names if _is_module(course.root, n) and not _is_module(folder, n))


def _is_module(root: Path, name: str) -> bool:
    path = root.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _fill_templates(course: Course, folder: Path) -> None:
    values = {
        **_requirements(course),
        "labs": _table_of_labs(course),
        "lectures": _list_of_lectures(course),
        "first_lab": course.labs()[0],
    }
    for path in sorted(TEMPLATES.glob(f"*{TEMPLATE}")):
        text, name = path.read_text(encoding="utf-8"), path.name.removesuffix(TEMPLATE)
        if name in FILLED:
            text = string.Template(text).substitute(values)
        (folder / name).write_text(text, encoding="utf-8")
    pins = (course.root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in pins if line and not line.startswith("#")]
    (folder / "constraints.txt").write_text("\n".join(kept) + "\n", encoding="utf-8")


def _requirements(course: Course) -> dict[str, str]:
    """The course's requirements and data files as TOML, what `course` names written out."""
    settings = tomllib.loads((course.root / "pyproject.toml").read_text(encoding="utf-8"))
    project, data_files = settings["project"], settings["tool"]["setuptools"]["data-files"]
    extras = project["optional-dependencies"]

    def written_out(extra: str) -> list[str]:
        found: list[str] = []
        for requirement in extras[extra]:
            own = re.fullmatch(rf"{project['name']}\[(.+)\]", requirement)
            names = own[1].split(",") if own else []
            found += [r for name in names for r in written_out(name)] or [requirement]
        return found

    return {
        "python": project["requires-python"],
        "dependencies": json.dumps(project["dependencies"], indent=4),
        "course": json.dumps(written_out("course"), indent=4),
        "data_files": "\n".join(f'"{to}" = {json.dumps(what)}' for to, what in data_files.items()),
    }


def _table_of_labs(course: Course) -> str:
    rows = ["| lab | points | minutes |", "|---|---|---|"]
    for lab in course.labs():
        path = course.release(lab)
        notebook = read_notebook(path)
        minutes = MINUTES.search(_first_text(notebook))
        points = sum(check.points for check in load_lab(lab).checks)
        link = f"[{_title(notebook)}]({path.relative_to(course.root)})"
        rows.append(f"| {link} | {points} | {minutes[1] if minutes else ''} |")
    return "\n".join(rows)


def _list_of_lectures(course: Course) -> str:
    paths = sorted((course.root / "chapters").glob("*/*.ipynb"))
    return "\n".join(
        f"- {path.parent.name}: [{_title(read_notebook(path))}]({path.relative_to(course.root)})"
        for path in paths
    )


def _first_text(notebook: Notebook) -> str:
    return next((source(c) for c in notebook["cells"] if c["cell_type"] == "markdown"), "")


def _title(notebook: Notebook) -> str:
    title = TITLE.search(_first_text(notebook))
    return title[1].strip() if title else "untitled"


def _copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)


def _copy_tree(folder: Path, target: Path) -> None:
    skipped = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "*.log")
    shutil.copytree(folder, target, ignore=skipped, copy_function=shutil.copyfile)
