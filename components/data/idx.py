"""The IDX format of MNIST and its relatives (LeCun, Cortes, Burges: http://yann.lecun.com/exdb/mnist/, "file formats").

Two zero bytes, a type code (8 is unsigned byte, the only one these data sets use), the number of dimensions, each dimension's size
as a big-endian 32-bit integer, then the values, the last dimension fastest.
"""

import math
import struct
from pathlib import Path

import torch
from torch import Tensor

from components.errors import DataError


def read_idx(path: Path) -> Tensor:
    """The tensor in an uncompressed IDX file of unsigned bytes, uint8 of the file's own shape.

    Raises:
        DataError: the file is not of that format, or its length does not fit its header.
    """
    content = path.read_bytes()
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise DataError(f"{path.name} is not an IDX file of unsigned bytes")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise DataError(f"{path.name} ends within its header")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise DataError(f"{path.name} has {len(content) - start:,} values where its header {list(shape)} says {math.prod(shape):,}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).reshape(shape)
