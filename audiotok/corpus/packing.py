"""Codes as bytes and back: what stands in the ``codes`` column of a shard.

Knows nothing of files. The law it keeps: packing is exact, and little-endian on every machine.
"""

from __future__ import annotations

import numpy as np
import torch

CODES_DTYPE = "<i2"


def pack_codes(codes: torch.Tensor) -> bytes:
    """codes [K, T] integers below 32768 -> the bytes of a shard's ``codes`` column."""
    return codes.cpu().numpy().astype(CODES_DTYPE).tobytes()


def unpack_codes(data: bytes, n_q: int) -> torch.Tensor:
    """The bytes of a ``codes`` column -> codes [K, T] int64. ValueError if they are no whole frames."""
    return torch.from_numpy(np.frombuffer(data, dtype=CODES_DTYPE).reshape(n_q, -1).astype(np.int64))
