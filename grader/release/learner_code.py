"""The part of the course's own Python that learners run: found by following imports and names."""

import ast
import re
from collections.abc import Iterable, Iterator
from modulefinder import ModuleFinder
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager

from grader.notebooks import Notebook, source

BLANK_LINES = re.compile(r"\n{4,}")


def modules(root: Path, entries: Iterable[str]) -> list[Path]:
    """Files of the package `grader` that the entries import, in functions too, with the entries.

    Labs are imported by name at run time and so are not followed.
    """
    finder = ModuleFinder(path=[str(root)], excludes=["labkit"])
    for entry in entries:
        finder.import_hook(entry)
    files = (getattr(module, "__file__", None) for module in finder.modules.values())
    return sorted({Path(name) for name in files if name and Path(name).is_relative_to(root)})


def names_from(notebook: Notebook, module: str) -> set[str]:
    """What a notebook's code uses of a module, imported as a whole or by name."""
    package, _, last = module.rpartition(".")
    nodes = list(_nodes(notebook))
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    found = {alias.name for node in imports if node.module == module for alias in node.names}
    whole = {
        alias.asname or alias.name
        for node in imports
        if node.module == package
        for alias in node.names
        if alias.name == last
    }
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    return found | {
        node.attr
        for node in attributes
        if isinstance(node.value, ast.Name) and node.value.id in whole
    }


def imported(notebook: Notebook) -> set[str]:
    """Every name that may be a module's in the imports of a notebook's code."""
    found = set()
    for node in _nodes(notebook):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _nodes(notebook: Notebook) -> Iterator[ast.AST]:
    """The syntax of all code cells, IPython's magics as the calls that it makes of them."""
    as_python = TransformerManager().transform_cell
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            yield from ast.walk(ast.parse(as_python(source(cell))))


def reduced(code: str, wanted: set[str]) -> str:
    """A module's code with only those definitions, imports included, that the wanted names need.

    Of its docstring the first line stays.

    Raises:
        ValueError: It does not define one of the names.
    """
    statements = ast.parse(code).body
    if missing := wanted - {name for node in statements for name in _defines(node)}:
        raise ValueError(f"the module does not define {', '.join(sorted(missing))}")
    needed = _needed(statements, wanted)
    lines = code.splitlines(keepends=True)
    for node in reversed(statements):
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        text = _kept(node, needed)
        if text is not None:
            lines[first - 1 : node.end_lineno] = [text] if text else []
    return BLANK_LINES.sub("\n\n\n", "".join(lines)).rstrip() + "\n"


def _needed(statements: list[ast.stmt], wanted: set[str]) -> set[str]:
    """The names that the wanted ones refer to, directly or through one another."""
    uses = {
        name: {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        for node in statements
        for name in _defines(node)
    }
    needed: set[str] = set()
    while new := wanted - needed:
        needed |= new
        wanted = {used for name in new for used in uses.get(name, ())}
    return needed


def _defines(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    names = [n for target in targets if target is not None for n in ast.walk(target)]
    return {name.id for name in names if isinstance(name, ast.Name)}


def _kept(node: ast.stmt, needed: set[str]) -> str | None:
    """The text that a statement is replaced by; None if it stays as it is, empty if it goes."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return f'"""{str(node.value.value).splitlines()[0]}"""\n'
    if isinstance(node, ast.ImportFrom):
        kept = [alias for alias in node.names if (alias.asname or alias.name) in needed]
        if 0 < len(kept) < len(node.names):
            return ast.unparse(ast.ImportFrom(node.module, kept, node.level)) + "\n"
    return None if _defines(node) & needed else ""
