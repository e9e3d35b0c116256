# expect: unreadable
# format: zip
# note: the upload broke off: the list of what is in it is missing


def spoil(content):
    return content[: len(content) // 2]
