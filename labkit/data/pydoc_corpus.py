"""The documentation of the installed Python as a corpus: thousands of real functions, offline.

The text depends on the Python version (and for `os` on the platform), on nothing else: sources are
parsed, not imported, and only the C modules of `builtin_docs.HOMES` are inspected.
"""

import ast
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from labkit.data import builtin_docs, doc_text
from labkit.data.python_sources import Definition, Function, SourceTree

_MODULES = """
abc argparse array ast asyncio base64 bdb binascii bisect builtins bz2 calendar cmath cmd code
codecs codeop collections colorsys compileall concurrent configparser contextlib copy copyreg
csv ctypes dataclasses datetime dbm decimal difflib dis doctest email enum filecmp fileinput
fnmatch fractions ftplib functools gc getopt getpass gettext glob graphlib gzip hashlib heapq
hmac html http imaplib importlib inspect io ipaddress itertools json keyword linecache locale
logging lzma mailbox marshal math mimetypes modulefinder multiprocessing netrc numbers operator
optparse os pathlib pdb pickle pickletools pkgutil platform plistlib poplib posixpath pprint
profile pstats py_compile pyclbr pydoc queue quopri random re reprlib runpy sched secrets select
selectors shelve shlex shutil signal site smtplib socket socketserver sqlite3 ssl stat
statistics string struct subprocess symtable sys sysconfig tabnanny tarfile tempfile textwrap
threading time timeit token tokenize tomllib trace traceback tracemalloc types typing
unicodedata unittest urllib uuid venv warnings wave weakref webbrowser wsgiref xml xmlrpc zipapp
zipfile zlib zoneinfo
"""
STDLIB = tuple(_MODULES.split())
"""Standard modules people use, those that every Python from 3.11 on has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FunctionDoc:
    """Documentation of one function, class, method or property.

    Attributes:
        name: the full name people write, "os.path.join" or "str.split".
        signature: the name with its arguments.
        summary: the first sentence or sentences, on one line.
        text: the whole cleaned documentation.
    """

    name: str
    signature: str
    summary: str
    text: str


def functions(packages: Sequence[str] = STDLIB) -> list[FunctionDoc]:
    """Documented public functions of the packages, sorted by name; the first call takes seconds.

    Args:
        packages: top-level package names. Beyond the standard library ("numpy", "torch", ...) only
            docstrings that stand in Python source are found.

    Raises:
        ValueError: a package is not installed, or has no source and is not a known C module.
    """
    return list(_functions(tuple(packages)))


@cache
def _functions(packages: tuple[str, ...]) -> tuple[FunctionDoc, ...]:
    tree = SourceTree(packages)
    for package in packages:
        if tree.load(package) is None and package not in builtin_docs.HOMES:
            raise ValueError(f"package {package!r} has no Python source to read documentation from")
    found: dict[str, FunctionDoc] = {}
    for name, definition in tree.public_definitions():
        for function in _documented(name, definition):
            found.setdefault(function.name, function)
    for package in sorted(set(packages) & builtin_docs.HOMES.keys()):
        for name, signature, doc in builtin_docs.documented_builtins(package):
            for function in _kept(name, signature, doc):
                found.setdefault(name, function)
    return tuple(found[name] for name in sorted(found))


def split(
    functions: Sequence[FunctionDoc], held_out: float = 0.1
) -> tuple[list[FunctionDoc], list[FunctionDoc]]:
    """Divide into train and held-out functions by a hash of the name, whatever their order.

    Functions whose summaries read the same (aliases, inherited texts) stay together, under the hash
    of the first of their names, so that no held-out answer has been trained under another name.

    Args:
        functions: documentation with unique names.
        held_out: share of the groups that is held out, in expectation.

    Raises:
        ValueError: held_out is not within [0, 1].
    """
    if not 0 <= held_out <= 1:
        raise ValueError(f"held_out={held_out} must lie between 0 and 1")
    groups: defaultdict[str, list[FunctionDoc]] = defaultdict(list)
    for function in functions:
        groups[doc_text.normalised(function.summary)].append(function)
    held_names = {
        function.name
        for group in groups.values()
        if _unit_hash(min(member.name for member in group)) < held_out
        for function in group
    }
    train = [function for function in functions if function.name not in held_names]
    return train, [function for function in functions if function.name in held_names]


def topics() -> list[str]:
    """The language reference behind Python's `help("...")`: some 80 texts, sorted by title.

    They quote the documentation of str, list and dict methods, held-out ones too.
    """
    from pydoc_data import topics as pydoc_topics  # half a megabyte of text: only when asked for

    return [doc_text.clean(text) for _, text in sorted(pydoc_topics.topics.items())]


def as_text(functions: Iterable[FunctionDoc]) -> list[str]:
    """One text per function: its signature, an empty line, its documentation."""
    return [f"{function.signature}\n\n{function.text}" for function in functions]


def _unit_hash(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64


def _documented(name: str, definition: Definition) -> Iterator[FunctionDoc]:
    """The definition itself and, of a class, its public methods."""
    if doc := ast.get_docstring(definition):
        yield from _kept(name, name + _arguments(definition), doc)
    if isinstance(definition, ast.ClassDef):
        for method in definition.body:
            if isinstance(method, Function) and not method.name.startswith("_"):
                yield from _documented(f"{name}.{method.name}", method)


def _kept(name: str, signature: str, doc: str) -> Iterator[FunctionDoc]:
    """A FunctionDoc, unless the documentation says less than three words."""
    text = doc_text.without_call_lines(doc_text.clean(doc))
    summary = doc_text.summary(text)
    if len(re.findall(r"[^\W\d_]+", summary)) >= 3:
        yield FunctionDoc(name=name, signature=signature, summary=summary, text=text)


def _arguments(definition: Definition) -> str:
    """Arguments as a caller sees them: no self or cls, nothing at all for a property."""
    if isinstance(definition, ast.ClassDef):
        methods = (node for node in definition.body if isinstance(node, Function))
        return next((_arguments(node) for node in methods if node.name == "__init__"), "()")
    if any(ast.unparse(node).endswith("property") for node in definition.decorator_list):
        return ""
    arguments = definition.args
    for positional in (arguments.posonlyargs, arguments.args):
        if positional and positional[0].arg in ("self", "cls"):
            del positional[0]
            break
    return f"({ast.unparse(arguments)})"
