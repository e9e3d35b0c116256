# expect: taken
# note: sizes behind the data and for 64 bits, as platforms stream their archives

import io
import zipfile


def spoil(content):
    class Stream(io.BytesIO):
        def tell(self):
            raise OSError("a stream")

    made = Stream()
    with zipfile.ZipFile(io.BytesIO(content)) as whole, zipfile.ZipFile(made, "w") as streamed:
        names = [*whole.namelist(), "mallory/lab03_lora/lab03_lora.ipynb"]
        for name in names:
            with streamed.open(name, "w", force_zip64=True) as file:
                file.write(whole.read(names[0]))
    return made.getvalue()
