# expect: damaged
# format: tar.gz
# note: a tar that ends in the middle


def spoil(content):
    return content[: len(content) // 2]
