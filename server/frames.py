"""Frames between the front end and an engine process: a 4-byte little-endian length, then a message."""

import struct
from collections.abc import Iterator

from google.protobuf.message import Message

MAX_FRAME_BYTES = 16 << 20
LENGTH = struct.Struct("<I")


class FrameError(Exception):
    """The other end sent what is no frame of ours."""


def frame(message: Message) -> bytes:
    """The bytes of one message, its length in front."""
    payload: bytes = message.SerializeToString()
    if len(payload) > MAX_FRAME_BYTES:
        raise FrameError(f"a message of {len(payload)} bytes is above the limit of {MAX_FRAME_BYTES}")
    return LENGTH.pack(len(payload)) + payload


class FrameBuffer:
    """Collects bytes as they arrive and gives back whole payloads."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The payloads that `data` completes. Raises FrameError when a length is above the limit."""
        self._data += data
        start = 0
        while len(self._data) - start >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._data, start)
            if length > MAX_FRAME_BYTES:
                raise FrameError(f"a frame of {length} bytes is above the limit of {MAX_FRAME_BYTES}")
            end = start + LENGTH.size + length
            if end > len(self._data):
                break
            yield bytes(self._data[start + LENGTH.size : end])
            start = end
        del self._data[:start]
