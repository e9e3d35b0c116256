"""Packing: exact round trips on arbitrary codes, and the layout bit by bit."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labkit.quant import packing

BITS_AND_CODES = st.integers(2, 8).flatmap(
    lambda bits: st.tuples(st.just(bits), st.lists(st.integers(0, 2**bits - 1), max_size=41))
)


@given(st.lists(st.integers(0, 15), max_size=41))
def test_int4_round_trip(codes: list[int]) -> None:
    tensor = torch.tensor(codes, dtype=torch.uint8)
    packed = packing.pack_int4(tensor)
    assert packed.nbytes == (len(codes) + 1) // 2
    assert torch.equal(packing.unpack_int4(packed, (len(codes),)), tensor)


@given(BITS_AND_CODES)
def test_any_width_round_trip_and_layout(case: tuple[int, list[int]]) -> None:
    bits, codes = case
    tensor = torch.tensor(codes, dtype=torch.uint8)
    packed = packing.pack_bits(tensor, bits)
    number = sum(code << (bits * i) for i, code in enumerate(codes))
    size = -(-len(codes) * bits // 8)
    assert bytes(packed.tolist()) == number.to_bytes(size, "little")
    assert torch.equal(packing.unpack_bits(packed, bits, (len(codes),)), tensor)


def test_int4_puts_the_first_code_in_the_high_half_and_keeps_the_shape() -> None:
    codes = torch.tensor([[1, 2, 3], [4, 15, 6]], dtype=torch.int32)
    packed = packing.pack_int4(codes)
    assert packed.tolist() == [0x12, 0x34, 0xF6]
    assert torch.equal(packing.unpack_int4(packed, (2, 3)), codes.to(torch.uint8))


@pytest.mark.parametrize("codes", [[-1, 3], [0, 16]])
def test_codes_that_do_not_fit_are_refused(codes: list[int]) -> None:
    with pytest.raises(ValueError, match=r"codes span .* and 4 bits hold 0\.\.15; add an offset"):
        packing.pack_int4(torch.tensor(codes))


def test_wrong_widths_and_sizes_are_refused() -> None:
    codes = torch.zeros(6, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"bits=9 must lie in 2\.\.8"):
        packing.pack_bits(codes, 9)
    with pytest.raises(
        ValueError, match=r"shape \(3, 5\) at 3 bits takes 6 bytes, and there are 3"
    ):
        packing.unpack_bits(packing.pack_bits(codes, 3), 3, (3, 5))
    with pytest.raises(ValueError, match=r"shape \(7,\) at 4 bits takes 4 bytes, and there are 3"):
        packing.unpack_int4(packing.pack_int4(codes), (7,))
