# expect: INVALID
# says: format 4
# note: valid JSON that is no notebook

import json


def build(folder, solved, release):
    (folder / "lab03_lora.ipynb").write_text(json.dumps(solved["cells"]))
