import torch
from hypothesis import given
from hypothesis import strategies as st

from ketune.quantization.packing import pack, packed_width, unpack


@given(st.data(), st.integers(1, 8), st.integers(1, 40), st.integers(1, 4))
def test_codes_of_any_width_come_back(data, bits, width, rows):
    seed = data.draw(st.integers(0, 10**6))
    codes = torch.randint(0, 2**bits, (rows, width), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    packed = pack(codes, bits)
    assert packed.shape == (rows, packed_width(width, bits))
    assert torch.equal(unpack(packed, bits, width), codes)


def test_no_bit_is_wasted_beyond_the_last_byte_of_a_row():
    assert [packed_width(100, bits) for bits in (1, 2, 3, 4, 8)] == [13, 25, 38, 50, 100]
