# expect: INVALID
# student: "-rf"
# student: "--root=.."
# student: "=cmd()"
# student: "<script>alert(1)<"
# student: "a\nb: c"
# student: "\u001b]0;owned\u0007"
# student: "\ud83d\ude00"
# student: "e\u0301" * 60
# student: "x" * 255
# student: ".hidden"
# student: "..x"
# student: "a b"
# student: "con."
# student: "'; DROP TABLE student; --"
# student: "@import"
# student: "%2e%2e%2f"
# says: rename it
# note: each a folder in `submitted/` with a right answer: returned, and nothing is called after it

from grader.notebooks import write_notebook


def build(folder, solved, release):
    write_notebook(folder / "lab03_lora.ipynb", solved)
