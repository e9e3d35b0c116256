# expect: PARTIAL 28
# cell lora_delta: WRONG
# note: gradebook, results, pages, a classmate's submission, the solved notebook, the key

# %% lora_delta
import os
import sqlite3

COURSE = "@course@"
try:
    with sqlite3.connect(f"{COURSE}/gradebook.db") as book:
        book.execute("UPDATE grade SET manual_score = 198")
except sqlite3.Error:
    pass
for path in (
    "gradebook.db",
    "gradebook.db.key",
    "autograded/s00-blank/lab03_lora/lab03_lora.ipynb",
    "reports/lab03_lora/results/s00-blank.json",
    "reports/lab03_lora/results/hostile-escape.json",
    "feedback/s00-blank/lab03_lora/lab03_lora.html",
    "submitted/s99-perfect/lab03_lora/lab03_lora.ipynb",
    "submitted/hostile-escape/lab03_lora/lab03_lora.ipynb",
    "solutions/lab03_lora/lab03_lora.ipynb",
    "labs/lab03_lora/lab03_lora.ipynb",
    "hostile-escape",
):
    try:
        os.makedirs(os.path.dirname(f"{COURSE}/{path}"), exist_ok=True)
        with open(f"{COURSE}/{path}", "w") as file:
            file.write('{"score": 32}')
    except OSError:
        continue
