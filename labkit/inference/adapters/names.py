"""What adapters may be called: `finance`, `tenant/finance`, `tenant/finance@v3`."""

import re

from labkit.inference.adapters.errors import AdapterNameError

BASE = "__base__"  # PEFT's word for "no adapter"; no name may begin with an underscore
MAX_NAME = 128
_PART = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_NAME = re.compile(rf"(?P<stem>{_PART}(?:/{_PART})*)(?:@v(?P<version>[1-9][0-9]{{0,8}}))?")


def parse_name(name: str) -> tuple[str, int | None]:
    """The stem and the version of `tenant/name@v3`.

    Raises:
        AdapterNameError: it is malformed, too long or reserved.
    """
    match = _NAME.fullmatch(name) if len(name) <= MAX_NAME else None
    if match is None:
        raise AdapterNameError(
            f"{name[:MAX_NAME]!r} is no adapter's name: letters, digits, '_', '.', '-', parts "
            f"divided by '/', perhaps @v and a number; at most {MAX_NAME} characters"
        )
    version = match["version"]
    return match["stem"], None if version is None else int(version)
