"""PNG encoder whose bytes depend only on the pixels."""

from __future__ import annotations

import struct
import zlib

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LARGEST_STORED_BLOCK = 0xFFFF


def encode_png(image: np.ndarray) -> bytes:
    """
    Encode an image without compression (RFC 2083, and "stored" blocks of RFC 1951).

    A compressor may produce other bytes in its next version. A dataset with identical files on
    every machine cannot depend on one.

    Args:
        image: (H, W, 3), uint8, RGB.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
    height, width, _ = image.shape
    rows = np.zeros((height, 1 + 3 * width), dtype=np.uint8)  # a leading 0: unfiltered row
    rows[:, 1:] = image.reshape(height, -1)
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB, not interlaced
    return (
        SIGNATURE
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", _zlib_stored(rows.tobytes()))
        + _chunk(b"IEND", b"")
    )


def _zlib_stored(data: bytes) -> bytes:
    blocks = [
        data[start : start + LARGEST_STORED_BLOCK]
        for start in range(0, len(data), LARGEST_STORED_BLOCK)
    ]
    parts = [b"\x78\x01"]
    for block in blocks:
        final = block is blocks[-1]
        parts.append(struct.pack("<BHH", final, len(block), LARGEST_STORED_BLOCK - len(block)))
        parts.append(block)
    parts.append(struct.pack(">I", zlib.adler32(data)))
    return b"".join(parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum
