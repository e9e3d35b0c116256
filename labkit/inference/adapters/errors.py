"""Why an adapter is refused: one exception a cause, for a server to answer each rightly."""


class AdapterError(ValueError):
    """Anything wrong with an adapter; the message gives the values met and the way out."""


class InvalidAdapterError(AdapterError):
    """Its files are absent, damaged, too large or hold what no adapter holds."""


class UnsupportedAdapterError(AdapterError):
    """It is sound, but not a sum on a linear layer's output, so it cannot share a batch."""


class MismatchedAdapterError(AdapterError):
    """It was made for another base model, or exceeds what this bank was built for."""


class AdapterCapacityError(AdapterError):
    """There is no slot or no memory left; it may succeed once another is unmounted."""


class AdapterNameError(AdapterError):
    """The name is malformed, reserved or was given before."""


class UnknownAdapterError(AdapterError):
    """Nothing is mounted under the name, or in the slot."""
