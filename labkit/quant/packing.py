"""Codes of a few bits packed into bytes without gaps."""

import math

import torch
from jaxtyping import Integer, UInt8
from torch import Tensor


def pack_int4(codes: Integer[Tensor, "*shape"]) -> UInt8[Tensor, " bytes"]:
    """Two codes 0..15 to a byte, the first in the high half; an odd end is filled with 0.

    This is the layout of bitsandbytes.

    Raises:
        ValueError: a code lies outside 0..15.
    """
    flat = _unsigned(codes, bits=4)
    if flat.numel() % 2:
        flat = torch.cat((flat, flat.new_zeros(1)))
    return (flat[::2] << 4) | flat[1::2]


def unpack_int4(packed: UInt8[Tensor, " bytes"], shape: tuple[int, ...]) -> UInt8[Tensor, "*shape"]:
    """Inverse of `pack_int4`.

    Raises:
        ValueError: the shape needs another number of bytes.
    """
    n = _checked_size(packed, shape, bits=4)
    return torch.stack((packed >> 4, packed & 15), dim=1).flatten()[:n].view(shape)


def pack_bits(codes: Integer[Tensor, "*shape"], bits: int) -> UInt8[Tensor, " bytes"]:
    """Eight codes of `bits` bits to `bits` bytes, lowest bits first; 2 <= bits <= 8.

    Args:
        codes: 0..2^bits - 1.
        bits: width of a code.

    Returns:
        ceil(n * bits / 8) bytes.

    Raises:
        ValueError: a code needs more bits, or `bits` is out of range.
    """
    flat = _unsigned(codes, bits)
    n = flat.numel()
    eights = torch.cat((flat, flat.new_zeros(-n % 8))).view(-1, 8).long()
    words = (eights << (bits * torch.arange(8, device=flat.device))).sum(1, keepdim=True)
    octets: Tensor = (words >> (8 * torch.arange(bits, device=flat.device))) & 255
    return octets.to(torch.uint8).flatten()[: _num_bytes(n, bits)]


def unpack_bits(
    packed: UInt8[Tensor, " bytes"], bits: int, shape: tuple[int, ...]
) -> UInt8[Tensor, "*shape"]:
    """Inverse of `pack_bits`.

    Raises:
        ValueError: the shape needs another number of bytes.
    """
    n = _checked_size(packed, shape, bits)
    octets = torch.cat((packed, packed.new_zeros(-packed.numel() % bits))).view(-1, bits).long()
    words = (octets << (8 * torch.arange(bits, device=packed.device))).sum(1, keepdim=True)
    codes: Tensor = (words >> (bits * torch.arange(8, device=packed.device))) & (2**bits - 1)
    return codes.to(torch.uint8).flatten()[:n].view(shape)


def _num_bytes(n: int, bits: int) -> int:
    return -(-n * bits // 8)


def _unsigned(codes: Tensor, bits: int) -> Tensor:
    if not 2 <= bits <= 8:
        raise ValueError(f"bits={bits} must lie in 2..8")
    if codes.numel():
        low, high = int(codes.min()), int(codes.max())
        if low < 0 or high >= 2**bits:
            raise ValueError(
                f"codes span {low}..{high}, and {bits} bits hold 0..{2**bits - 1}; "
                "add an offset to signed codes"
            )
    return codes.flatten().to(torch.uint8)


def _checked_size(packed: Tensor, shape: tuple[int, ...], bits: int) -> int:
    n = math.prod(shape)
    if packed.numel() != _num_bytes(n, bits):
        raise ValueError(
            f"shape {shape} at {bits} bits takes {_num_bytes(n, bits)} bytes, "
            f"and there are {packed.numel()}"
        )
    return n
