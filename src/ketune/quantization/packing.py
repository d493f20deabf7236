"""Codes of any width of bits, packed into bytes."""

from __future__ import annotations

import torch


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack the rows of codes.

    Args:
        codes: (rows, width) uint8, each below 2^bits.
        bits: 1 to 8.

    Returns:
        (rows, `packed_width(width, bits)`) uint8: the bits of a row one after the other, the lowest first.
    """
    if bits == 8:
        return codes.contiguous()
    rows, width = codes.shape
    places = torch.arange(bits, device=codes.device, dtype=torch.uint8)
    stream = (codes.unsqueeze(-1) >> places).bitwise_and_(1).reshape(rows, width * bits)
    stream = torch.nn.functional.pad(stream, (0, -(width * bits) % 8)).reshape(rows, -1, 8)
    return (stream << torch.arange(8, device=codes.device, dtype=torch.uint8)).sum(-1, dtype=torch.uint8)


def unpack(packed: torch.Tensor, bits: int, width: int) -> torch.Tensor:
    """The codes (rows, width) uint8 that `pack` packed."""
    if bits == 8:
        return packed
    if 8 % bits == 0:  # whole codes in each byte
        places = torch.arange(0, 8, bits, device=packed.device, dtype=torch.uint8)
        codes = (packed.unsqueeze(-1) >> places).bitwise_and_(2**bits - 1)
        return codes.reshape(len(packed), -1)[:, :width]
    stream = (packed.unsqueeze(-1) >> torch.arange(8, device=packed.device, dtype=torch.uint8)).bitwise_and_(1)
    stream = stream.reshape(len(packed), -1)[:, : width * bits].reshape(len(packed), width, bits)
    return (stream << torch.arange(bits, device=packed.device, dtype=torch.uint8)).sum(-1, dtype=torch.uint8)


def packed_width(width: int, bits: int) -> int:
    """Bytes for a row of `width` codes."""
    return -(-width * bits // 8)
