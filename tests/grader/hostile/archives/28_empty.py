# expect: unreadable
# format: zip
# note: no bytes at all


def spoil(content):
    return b""
