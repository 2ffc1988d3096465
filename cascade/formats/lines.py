"""The lines of a file, of which none takes more memory than it may."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

MAX_LINE = 8 * 1024 * 1024
"""Bytes a line may have."""


def lines(file: BinaryIO, most: int) -> Iterator[tuple[bytes, int]]:
    """(text, bytes) of each line; of one with more than `most` bytes the text is a part of it."""
    while line := file.readline(most + 1):
        size = len(line)
        while size > most and not line.endswith(b"\n") and (line := file.readline(most)):
            size += len(line)
        yield line, size
