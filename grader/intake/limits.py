"""What a submission may hold; everything is counted while it is read, never taken from a header."""

from dataclasses import dataclass

from grader.notebooks import MAX_NOTEBOOK_BYTES

TEXT_SUFFIXES = (".ipynb", ".py", ".txt", ".md", ".csv", ".tsv", ".json", ".yaml", ".yml", ".toml")
OTHER_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".pdf", ".npy", ".npz")
SUFFIXES = frozenset((*TEXT_SUFFIXES, *OTHER_SUFFIXES))
MAX_NAME_BYTES = 255
MAX_ENTRIES = 500_000
MAX_STRAYS = 1_000
CHUNK_BYTES = 64 * 2**10
RATIO_FREE_BYTES = 2**20
ZIP_DIRECTORY_BYTES = 16 * 2**20
TAR_HEADER_BYTES = 16 * 2**10
XZ_MEMORY_BYTES = 128 * 2**20


class RefusedError(Exception):
    """Something is not taken in; the message says why.

    Attributes:
        whole: The submission it belongs to is refused with it.
    """

    def __init__(self, why: str, *, whole: bool = False) -> None:
        super().__init__(why)
        self.whole = whole


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits of one `grader collect`.

    Attributes:
        file_bytes: Of a file; a larger one is refused, the rest of its submission is not.
        submission_bytes: Of a submission's files together.
        total_bytes: Of all submissions, and of what an archive may unpack to.
        submission_files: Files and folders of a submission.
        depth: Folders and file of a path inside a submission.
        ratio: Unpacked by packed bytes of a zip's file, above the first MiB.
        suffixes: Of the files that are taken, in lower case.
    """

    file_bytes: int = MAX_NOTEBOOK_BYTES
    submission_bytes: int = 50 * 2**20
    total_bytes: int = 4 * 2**30
    submission_files: int = 200
    depth: int = 8
    ratio: int = 200
    suffixes: frozenset[str] = SUFFIXES

    def __post_init__(self) -> None:
        sizes = (self.file_bytes, self.submission_bytes, self.total_bytes, self.submission_files)
        if min(*sizes, self.depth, self.ratio) < 1:
            raise ValueError("every limit of `grader collect` must be at least 1")
        for suffix in self.suffixes:
            if not suffix.startswith(".") or suffix != suffix.lower() or "/" in suffix:
                raise ValueError(f"suffix {suffix!r} must be in lower case and begin with a dot")
