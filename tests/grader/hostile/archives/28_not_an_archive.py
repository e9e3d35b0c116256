# expect: unreadable
# format: zip
# note: bytes under an archive's name


def spoil(content):
    return b"%PDF-1.7" + content
