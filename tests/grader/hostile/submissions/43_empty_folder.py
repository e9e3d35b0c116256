# expect: INVALID
# says: there is no notebook
# note: nothing was handed in


def build(folder, solved, release):
    (folder / "notes.txt").write_text("see my e-mail")
