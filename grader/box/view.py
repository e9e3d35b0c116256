"""What a box sees of the machine's file system: the interpreter, system libraries, the course."""

import os
import site
import sys
from pathlib import Path

SYSTEM = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache")


def interpreter() -> list[str]:
    """Folders the running interpreter needs: its environment, its base, the files they link to."""
    real = Path(os.path.realpath(sys.executable))
    folders = {Path(sys.prefix), Path(sys.base_prefix), real.parent.parent}
    folders = {folder for folder in folders if folder.parts[1:]}
    return sorted({str(folder) for folder in folders}, key=len)


def covered(packages: tuple[str, ...]) -> list[str]:
    """Installed packages that must not be importable: labkit, grader, what a lab forbids."""
    found = [Path(root) / package for root in site.getsitepackages() for package in packages]
    return [str(path) for path in found if path.is_dir()]
