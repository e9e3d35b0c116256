# expect: PARTIAL 28
# cell lora_delta: WRONG
# says: reached []
# note: packages, start-up files, the course's own modules: what the next student would import

# %% lora_delta
import os
import site
import sys

FOLDERS = [sys.prefix, sys.base_prefix, *site.getsitepackages(), *sys.path, "/course", "/etc", "/"]
FOLDERS += [os.path.dirname(torch.__file__), os.path.dirname(os.__file__)]
own = {os.path.realpath(path) for path in (os.getcwd(), os.environ.get("HOME", ""))}
found = []
for folder in {os.path.realpath(path) for path in FOLDERS if path} - own:
    for name in ("hostile-escape.pth", "sitecustomize.py"):
        try:
            with open(os.path.join(folder, name), "x") as file:
                file.write("import hostile_escape")
            os.unlink(os.path.join(folder, name))
            found.append(folder)
        except OSError:
            continue
try:
    with open(sys.modules["grader.labs.lab03_lora.drive"].__file__, "a") as file:
        file.write("\n")
    found.append("drive")
except OSError:
    pass


def lora_delta(lora_A, lora_B, alpha, use_rslora=False):
    raise RuntimeError(f"reached {found}")
