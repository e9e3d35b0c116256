# expect: refused
# note: nothing is unpacked twice

import io
import zipfile


def add(archive, notebook):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as packed:
        packed.writestr("lab03_lora.ipynb", notebook)
    archive.writestr("mallory/lab03_lora/lab03_lora.zip", inner.getvalue())
