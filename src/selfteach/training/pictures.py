"""Pictures of images, as a run keeps them: pixels laid out side by side and written as PNG."""

from __future__ import annotations

import math
import struct
import zlib

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

GAP, SHADE = 1, 0.5
"""Pixels between images, and how bright they are."""


def side_by_side(images: Float[Tensor, "n c h w"], columns: int | None = None) -> Float[Tensor, "c h2 w2"]:
    """Images in rows of ``columns`` (None: as near to a square as may be), from left to right and from above."""
    n, columns = len(images), columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(n / columns)
    framed = functional.pad(images, (0, GAP, 0, GAP), value=SHADE)
    filled = torch.cat([framed, framed.new_full((rows * columns - n, *framed.shape[1:]), SHADE)])
    _, c, h, w = filled.shape
    laid = filled.reshape(rows, columns, c, h, w).permute(2, 0, 3, 1, 4).reshape(c, rows * h, columns * w)
    return laid[:, :-GAP, :-GAP]


def png(pixels: Float[Tensor, "c h w"]) -> bytes:
    """A PNG file of one channel (gray) or three (red, green, blue) in [0, 1], 8 bits each (W3C's PNG, third edition).
    What lies outside is cut to it; what is no number is black. ValueError for another number of channels."""
    channels, height, width = pixels.shape
    if channels not in (1, 3):
        raise ValueError(f"a picture has 1 or 3 channels, not {channels}")
    levels = (pixels.detach().cpu().double().nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    rows = levels.permute(1, 2, 0).reshape(height, -1)
    unfiltered = functional.pad(rows, (1, 0)).numpy().tobytes()  # each row begins with its filter: 0, none
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(unfiltered)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, content) for kind, content in parts)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
