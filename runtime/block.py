"""The parameter block: the words a kernel reads, packed by the offsets in its manifest. Knows no tensor library."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from attncc.artifact import Abi

_FORMATS = {"ptr": "Q", "i64": "q", "i32": "i", "u32": "I", "f32": "f"}


class Packer:
    """Packs the words of one kernel. Built once a kernel; packing is a dictionary pass and one struct call."""

    def __init__(self, abi: Abi) -> None:
        words = sorted(abi.words, key=lambda word: word.offset)
        text, at = "<", 0
        for word in words:
            if word.offset < at:
                raise ValueError(f"the word {word.name} overlaps the one before it")
            text += f"{word.offset - at}x" if word.offset > at else ""
            text += _FORMATS[word.ctype]
            at = word.offset + struct.calcsize("<" + _FORMATS[word.ctype])
        if at > abi.size:
            raise ValueError(f"words of {at} bytes in a block of {abi.size}")
        self.struct = struct.Struct(text + (f"{abi.size - at}x" if abi.size > at else ""))
        self.index = {word.name: position for position, word in enumerate(words)}
        self.size = abi.size

    def pack(self, words: Mapping[str, int | float]) -> bytes:
        """The block with the given words, every other 0. A name the kernel has not is a KeyError."""
        values: list[int | float] = [0] * len(self.index)
        index = self.index
        for name, value in words.items():
            values[index[name]] = value
        return self.struct.pack(*values)
