"""How messages and answers are framed.

A frame is four bytes of length (big-endian), then msgpack: `Request` one way, `Reply` the other. A frame is at most
64 KiB and must be whole within 5 s (docs/explanation/rules.md).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Annotated, TypeVar

import msgspec

from diycloud.agent.protocol import AnyMessage
from diycloud.errors import BY_CODE, DiyCloudError, TooManyRequests, Unavailable

VERSION = 1
MAX_FRAME = 64 * 1024
FRAME_SECONDS = 5.0
_LENGTH = struct.Struct(">I")
_ROOM = MAX_FRAME * 3 // 4
T = TypeVar("T")
_NIL = msgspec.Raw(msgspec.msgpack.encode(None))


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """deadline: seconds the caller will wait, from arrival."""

    id: int
    body: AnyMessage
    version: int = VERSION
    deadline: Annotated[float, msgspec.Meta(gt=0, le=600)] = 60.0


class Reply(msgspec.Struct, frozen=True):
    """ok: the answer, itself in msgpack; nil with an error's code, message and hint (errors.BY_CODE).

    retry_after: seconds, of a TooManyRequests; 0 of anything else.
    """

    id: int
    ok: msgspec.Raw = _NIL
    code: str = ""
    message: str = ""
    hint: str = ""
    retry_after: int = 0

    @classmethod
    def of_error(cls, request: int, error: DiyCloudError) -> Reply:
        """Return the answer that tells of an error."""
        wait = error.retry_after if isinstance(error, TooManyRequests) else 0
        return cls(request, code=error.code, message=error.message, hint=error.hint, retry_after=wait)

    def error(self) -> DiyCloudError | None:
        """Return the error this tells of, None if it is an answer."""
        if not self.code:
            return None
        if self.code == TooManyRequests.code:
            return TooManyRequests(self.message, self.hint, retry_after=max(1, self.retry_after))
        return BY_CODE.get(self.code, Unavailable)(self.message, self.hint)


def parts(values: Iterable[T], most: int) -> Iterator[list[T]]:
    """Cut what is to be sent into parts that each fit a frame and hold at most so many; one empty part if there is nothing.

    What is counted is bytes too: a wish has any length between 100 and 3,500 of them.
    """
    part: list[T] = []
    size = 0
    for value in values:
        length = len(msgspec.msgpack.encode(value))
        if part and (size + length > _ROOM or len(part) == most):
            yield part
            part, size = [], 0
        part.append(value)
        size += length
    yield part


def pack(value: msgspec.Struct) -> bytes:
    """Return the frame of a Request or Reply. Raises ValueError above MAX_FRAME."""
    body = msgspec.msgpack.encode(value)
    if len(body) > MAX_FRAME:
        raise ValueError(f"a frame of {len(body)} bytes is over {MAX_FRAME}")
    return _LENGTH.pack(len(body)) + body


def frame_length(head: bytes) -> int:
    """Return the length in a frame's first four bytes. Raises ValueError if it is 0 or above MAX_FRAME."""
    (length,) = _LENGTH.unpack(head)
    if not 0 < length <= MAX_FRAME:
        raise ValueError(f"a frame of {length} bytes is not 1–{MAX_FRAME}")
    return int(length)
