"""The package's own names: there without being imported, documented, typed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import labkit

NAMES = [
    "DataLoader", "Generator", "MiniLLM", "ModelConfig", "Tokenizer", "TrainConfig", "Trainer",
]  # fmt: skip


def _python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip()


def test_importing_labkit_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'safetensors', 'tokenizers', 'jaxtyping', 'importlib.metadata'}"
    code = f"import sys; import labkit; dir(labkit); print({heavy} & set(sys.modules) or 'light')"
    assert _python(code) == "light"


def test_the_configurations_do_not_wait_for_each_other() -> None:
    code = "import sys; from labkit import TrainConfig; print('torch' in sys.modules)"
    assert _python(code) == "False"


@pytest.mark.parametrize("name", NAMES)
def test_each_name_resolves_and_is_documented(name: str) -> None:
    found = getattr(labkit, name)
    assert found.__name__ == name
    assert found is getattr(labkit, name)
    assert found.__doc__.strip()
    assert f"`{name}`" in (labkit.__doc__ or "")
    assert name in dir(labkit)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'labkit' has no attribute 'Trainr'"):
        labkit.Trainr  # noqa: B018 - the access is what is tested
    with pytest.raises(ImportError, match="cannot import name 'Trainr'"):
        exec("from labkit import Trainr")


def test_a_type_checker_sees_the_same_names() -> None:
    source = Path(labkit.__file__).read_text()
    seen = re.findall(r"^    from (\S+) import (\w+) as \2$", source, flags=re.MULTILINE)
    assert {name: home for home, name in seen} == labkit._HOMES
    assert sorted(labkit._HOMES) == NAMES
