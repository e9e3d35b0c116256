"""Documentation of functions and types written in C, read from the running interpreter."""

import importlib
import inspect
import re
import types
from collections.abc import Iterator

HOMES = {
    "array": ("array",),
    "binascii": ("binascii",),
    "builtins": ("builtins", "_io", "io"),
    "cmath": ("cmath",),
    "collections": ("collections", "_collections"),
    "functools": ("functools", "_functools"),
    "gc": ("gc",),
    "io": ("_io", "io"),
    "itertools": ("itertools",),
    "marshal": ("marshal",),
    "math": ("math",),
    "os": ("posix", "nt", "os"),
    "re": ("re", "_sre"),
    "select": ("select",),
    "signal": ("_signal", "signal"),
    "socket": ("_socket", "socket"),
    "struct": ("_struct",),
    "sys": ("sys",),
    "threading": ("_thread", "threading"),
    "time": ("time",),
    "unicodedata": ("unicodedata",),
    "zlib": ("zlib",),
}
"""Modules read here, each with the names its C objects give as their module: importing these runs
no code beyond what every Python program has loaded or may load safely."""

_METHOD_TYPES = (types.MethodDescriptorType, types.ClassMethodDescriptorType, staticmethod)


def documented_builtins(module_name: str) -> Iterator[tuple[str, str, str]]:
    """Yield (public name, signature, raw documentation) of a module's C functions and types."""
    module = importlib.import_module(module_name)
    prefix = "" if module_name == "builtins" else f"{module_name}."
    for name, value in sorted(vars(module).items()):
        home = getattr(value, "__module__", None)
        if name.startswith("_") or (home or module_name) not in HOMES[module_name]:
            continue
        if isinstance(value, types.BuiltinFunctionType):
            yield from _entry(f"{prefix}{name}", value)
        elif isinstance(value, type):
            yield from _entry(f"{prefix}{name}", value)
            for method_name, method in sorted(vars(value).items()):
                if isinstance(method, _METHOD_TYPES) and not method_name.startswith("_"):
                    yield from _entry(f"{prefix}{name}.{method_name}", method)


def _entry(name: str, value: object) -> Iterator[tuple[str, str, str]]:
    doc = value.__doc__
    if isinstance(doc, str) and doc.strip():
        yield name, name + _arguments(value, doc), doc


def _arguments(value: object, doc: str) -> str:
    """Arguments in parentheses, from the text signature or the call that starts the text."""
    signature = getattr(value, "__text_signature__", None)
    if isinstance(signature, str):
        inner = re.sub(r"^\(\$\w+(?:, /)?(?:, )?", "(", signature)
        inner = re.sub(r"(?:, )?/(?=[,)])", "", inner).replace("(, ", "(")
        return " ".join(inner.split())
    match = re.match(r"[\w.]+(\(.*?\))", inspect.cleandoc(doc), re.DOTALL)
    return " ".join(match[1].split()) if match else "()"
