"""Public names of Python packages and the source that defines them, read without importing.

A name such as `json.JSONDecoder` is followed through `from .decoder import JSONDecoder` and through
`from x import *` to the class statement, so that documentation is filed under what people write.
"""

import ast
import importlib.util
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef

RENAMED = {"posixpath": "os.path"}
_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "conftest", "setup"}
_STDLIB_FOLDER = Path(sysconfig.get_paths()["stdlib"])


@dataclass(slots=True)
class Module:
    """What one source file binds at its top level."""

    name: str
    is_package: bool
    definitions: dict[str, Definition] = field(default_factory=dict)
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)
    star_imports: list[str] = field(default_factory=list)
    instances: dict[str, str] = field(default_factory=dict)
    bound_methods: dict[str, tuple[str, str]] = field(default_factory=dict)
    listed: list[str] = field(default_factory=list)
    list_is_complete: bool = False

    def absolute(self, node: ast.ImportFrom) -> str:
        """Name of the module a `from` statement reads, relative dots resolved."""
        parts = self.name.split(".")
        keep = len(parts) - node.level + self.is_package if node.level else 0
        return ".".join([*parts[:keep], *([node.module] if node.module else [])])

    def method(self, instance: str, name: str) -> Definition | None:
        """The function behind `randint = _inst.randint`, where `_inst = Random()`."""
        owner = self.definitions.get(self.instances.get(instance, ""))
        body = owner.body if isinstance(owner, ast.ClassDef) else []
        return next((n for n in body if isinstance(n, Function) and n.name == name), None)

    def bind(self, node: ast.Assign) -> None:
        """Note `_inst = Random()` and `randint = _inst.randint`; ignore the rest."""
        match node:
            case ast.Assign(targets=[ast.Name(target)], value=ast.Call(func=ast.Name(owner))):
                self.instances[target] = owner
            case ast.Assign(
                targets=[ast.Name(target)],
                value=ast.Attribute(value=ast.Name(instance), attr=attribute),
            ):
                self.bound_methods[target] = (instance, attribute)


def package_path(package: str) -> Path | None:
    """Source file or folder of a top-level package; None where it is compiled into Python.

    Raises:
        ValueError: no such package is installed.
    """
    for candidate in (_STDLIB_FOLDER / package / "__init__.py", _STDLIB_FOLDER / f"{package}.py"):
        if candidate.is_file():
            return candidate.parent if candidate.name == "__init__.py" else candidate
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None:
        raise ValueError(f"package {package!r} is not installed: leave it out or install it")
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


class SourceTree:
    """The modules of some packages, parsed when first asked for."""

    def __init__(self, packages: Sequence[str]) -> None:
        self._paths = {package: package_path(package) for package in packages}
        self._modules: dict[str, Module | None] = {}

    def public_definitions(self) -> Iterator[tuple[str, Definition]]:
        """Every public function and class once, under its shortest public name, in name order."""
        best: dict[int, tuple[int, str, Definition]] = {}
        for module_name in self._public_modules():
            module = self.load(module_name)
            if module is None:
                continue
            for name in self._public_names(module, set()):
                definition = self._resolve(module_name, name, set())
                if definition is not None:
                    full = f"{RENAMED.get(module_name, module_name)}.{name}"
                    candidate = (full.count("."), full, definition)
                    kept = best.setdefault(id(definition), candidate)
                    best[id(definition)] = min(kept, candidate, key=lambda entry: entry[:2])
        for _, full, definition in sorted(best.values(), key=lambda entry: entry[1]):
            yield full, definition

    def load(self, name: str) -> Module | None:
        """Parse a module of these packages or of the standard library; None without source."""
        if name not in self._modules:
            path = self._locate(name)
            self._modules[name] = None if path is None else _parse(name, path)
        return self._modules[name]

    def _locate(self, name: str) -> Path | None:
        top, *rest = name.split(".")
        root = self._paths.get(top, _STDLIB_FOLDER / top)
        if root is None:
            return None
        base = root.joinpath(*rest)
        candidates = [base / "__init__.py", base.parent / f"{base.stem}.py"]
        return next((path for path in candidates if path.is_file()), None)

    def _public_modules(self) -> Iterator[str]:
        for package, root in sorted(self._paths.items()):
            if root is None or root.is_file():
                yield package
                continue
            for path in sorted(root.rglob("*.py")):
                parts = path.relative_to(root).with_suffix("").parts
                parts = parts[:-1] if parts[-1] == "__init__" else parts
                if not any(part.startswith("_") or part in _SKIPPED_FOLDERS for part in parts):
                    yield ".".join([package, *parts])

    def _public_names(self, module: Module, seen: set[str]) -> set[str]:
        """`__all__` where it is a literal; else own definitions and what a package re-exports."""
        seen.add(module.name)
        names = {name for name in module.listed if not name.startswith("_")}
        if module.list_is_complete:
            return names
        names |= module.definitions.keys()
        if module.is_package:
            top = module.name.split(".")[0]
            names |= {n for n, (home, _) in module.imports.items() if home.split(".")[0] == top}
        for source in module.star_imports:
            target = self.load(source)
            if target is not None and source not in seen:
                names |= self._public_names(target, seen)
        return {name for name in names if not name.startswith("_")}

    def _resolve(self, module_name: str, name: str, seen: set[str]) -> Definition | None:
        """The statement that defines a name, followed through imports."""
        module = self.load(module_name)
        if module is None or f"{module_name}.{name}" in seen:
            return None
        seen.add(f"{module_name}.{name}")
        if name in module.definitions:
            return module.definitions[name]
        if name in module.bound_methods:
            return module.method(*module.bound_methods[name])
        if name in module.imports:
            return self._resolve(*module.imports[name], seen)
        found = (self._resolve(source, name, seen) for source in module.star_imports)
        return next((definition for definition in found if definition is not None), None)


def _parse(name: str, path: Path) -> Module:
    module = Module(name=name, is_package=path.name == "__init__.py")
    statements = _flatten(ast.parse(path.read_bytes(), filename=path.name).body)
    complete = True
    for node in statements:
        if isinstance(node, Definition):
            module.definitions.setdefault(node.name, node)
        elif isinstance(node, ast.ImportFrom):
            source = module.absolute(node)
            for alias in node.names:
                if alias.name == "*":
                    module.star_imports.append(source)
                else:
                    module.imports[alias.asname or alias.name] = (source, alias.name)
        elif isinstance(node, ast.Assign) and not _names_all(node):
            module.bind(node)
        elif _names_all(node):
            strings = [leaf.value for leaf in ast.walk(node) if isinstance(leaf, ast.Constant)]
            module.listed += [value for value in strings if isinstance(value, str)]
            complete &= isinstance(node, ast.Assign) and isinstance(
                node.value, ast.List | ast.Tuple
            )
    module.list_is_complete = complete and bool(module.listed)
    return module


def _flatten(statements: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Top-level statements with those inside `if`, `try` and `with`, in order."""
    for node in statements:
        if isinstance(node, ast.If):
            yield from _flatten(node.body + node.orelse)
        elif isinstance(node, ast.Try):
            handlers = [s for handler in node.handlers for s in handler.body]
            yield from _flatten(node.body + handlers + node.orelse + node.finalbody)
        elif isinstance(node, ast.With):
            yield from _flatten(node.body)
        else:
            yield node


def _names_all(node: ast.stmt) -> bool:
    """Whether a statement assigns, adds to or extends `__all__`."""
    if isinstance(node, ast.Assign):
        targets: list[ast.expr] = node.targets
    elif isinstance(node, ast.AugAssign):
        targets = [node.target]
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        function = node.value.func
        targets = [function.value] if isinstance(function, ast.Attribute) else []
    else:
        return False
    return any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)
