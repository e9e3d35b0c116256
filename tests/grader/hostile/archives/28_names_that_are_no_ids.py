# expect: named
# note: students called like options, markup, formulas and terminal commands

NAMES = (
    "-rf",
    "=cmd()",
    "<script>alert(1)<",
    "\x1b]0;owned",
    "a\nb",
    "x" * 300,
    "\U0001f600",
    "..x",
    "CON",
)


def add(archive, notebook):
    for name in NAMES:
        archive.writestr(f"{name}/lab03_lora/lab03_lora.ipynb", notebook)
