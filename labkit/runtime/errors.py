"""The two exceptions that callers tell apart; every other wrong value is a plain ValueError."""


class CorruptFileError(ValueError):
    """A file is truncated, damaged or not what its name says; the message names the file."""


class MissingDependencyError(ImportError):
    """An optional library is absent; the message says which extra installs it."""
