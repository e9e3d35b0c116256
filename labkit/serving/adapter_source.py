"""Where adapters come from while serving: a folder on disk, and nothing outside of it."""

from pathlib import Path
from typing import Protocol, runtime_checkable

from labkit.inference.adapters.names import parse_name
from labkit.serving.errors import ApiError


@runtime_checkable
class Registry(Protocol):
    """Knows adapters by name."""

    def resolve(self, name: str) -> Path:
        """The adapter's folder.

        Raises:
            ApiError: There is none.
        """
        ...


class AdapterSource:
    """Turns what a request names into a folder that may be read.

    Args:
        root: All adapters lie under it; None: none may be loaded.
        registry: Knows them by name; default: the folder of that name under the root.
    """

    def __init__(self, root: Path | None, registry: Registry | None = None) -> None:
        self._root = None if root is None else root.resolve()
        self._registry = registry

    def folder(self, name: str, path: str | None) -> Path:
        """The folder of an adapter.

        Args:
            name: Of the adapter.
            path: Absolute, or from the root; None: look the name up.

        Raises:
            ApiError: 403, loading is off, or the path (or a link in the folder) leads out of the
                root; 404, there is no such adapter.
            AdapterNameError: The name is malformed.
        """
        parse_name(name)
        if path is None and self._registry is not None:
            return self._registry.resolve(name)
        if self._root is None:
            raise ApiError(
                "adapters cannot be loaded: this server was started without a folder for them",
                status=403,
                code="adapters_off",
            )
        folder = (self._root / (name if path is None else path)).resolve()
        if not self._inside(folder):
            raise ApiError(
                f"lora_path {path!r} lies outside the server's folder of adapters",
                status=403,
                code="path_not_allowed",
                param="lora_path",
            )
        if not folder.is_dir():
            raise ApiError(
                f"there is no adapter {path or name!r} in the server's folder of adapters",
                status=404,
                code="adapter_not_found",
                param="lora_name" if path is None else "lora_path",
            )
        return folder

    def _inside(self, folder: Path) -> bool:
        assert self._root is not None
        places = [folder]
        if folder.is_dir() and folder.is_relative_to(self._root):
            places += [entry.resolve() for entry in folder.iterdir()]
        return all(place.is_relative_to(self._root) for place in places)
