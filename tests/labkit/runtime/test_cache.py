"""Where files are kept, and that no half-written one is ever seen."""

import threading
from pathlib import Path

import pytest

from labkit.runtime import cache


def test_environment_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("LABKIT_CACHE", raising=False)
    assert cache.cache_dir() == tmp_path / "xdg" / "labkit"
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "own"))
    assert cache.cache_dir() == tmp_path / "own"
    assert (tmp_path / "own").is_dir()


def test_default_is_below_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LABKIT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.cache_dir() == tmp_path / ".cache" / "labkit"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "file.txt"
    with cache.atomic_path(final) as path:
        path.write_text("old")

    def write_half() -> None:
        with cache.atomic_path(final) as path:
            path.write_text("ne")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_half()
    assert final.read_text() == "old"
    assert list(final.parent.iterdir()) == [final]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    final = tmp_path / "folder"
    for content in ("first", "second"):
        with cache.atomic_path(final) as path:
            path.mkdir()
            (path / content).write_text(content)
    assert [path.name for path in final.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [final]


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    final = tmp_path / "folder"
    final.mkdir()
    (final / "old").touch()

    def write_half() -> None:
        with cache.atomic_path(final) as path:
            path.mkdir()
            (path / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "old"]


def test_a_lock_makes_others_wait(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with cache.locked(tmp_path / "lock"):
            order.append("second")

    with cache.locked(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(timeout=0.1)
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]
