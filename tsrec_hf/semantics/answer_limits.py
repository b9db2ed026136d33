"""
Bounds on what a teacher's server may send: bytes, and time in all.

A time-out of an HTTP client counts silence. A server that sends a byte now and then, or never stops, is bounded by
nobody: its answers are read through an [`httpx2`] hook, which sees a response before its body.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2
from huggingface_hub.utils import get_session


# An answer has at most some thousand tokens. Error pages of proxies are as long.
MOST_BYTES = 4 << 20
# A body that is packed could unpack to a thousand times its size.
UNPACKED = {"Accept-Encoding": "identity"}


@dataclass
class _Limits:
    deadline: float
    most_bytes: int


_here = threading.local()


@contextmanager
def answers_within(seconds: float) -> Iterator[None]:
    """
    Within the block, answers to this thread's requests of `huggingface_hub` end by an error when they are too long.

    Args:
        seconds (`float`):
            Time until the body is there, in all.

    Raises:
        `TimeoutError`: the time is over. `ConnectionError`: a body that is longer, or packed.
    """
    hooks = get_session().event_hooks["response"]
    if _bound not in hooks:
        hooks.append(_bound)
    _here.limits = _Limits(time.monotonic() + seconds, MOST_BYTES)
    try:
        yield
    finally:
        _here.limits = None


def _bound(response: httpx2.Response) -> None:
    limits = getattr(_here, "limits", None)
    if limits is None:
        return
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise ConnectionError("Expected an answer as it is, but the server packed it, though it was asked not to.")
    assert isinstance(response.stream, httpx2.SyncByteStream)
    response.stream = _BoundedStream(response.stream, limits)


class _BoundedStream(httpx2.SyncByteStream):
    """The body of a response, up to a number of bytes and a moment."""

    def __init__(self, stream: httpx2.SyncByteStream, limits: _Limits):
        self.stream, self.limits = stream, limits

    def __iter__(self) -> Iterator[bytes]:
        received = 0
        for part in self.stream:
            received += len(part)
            if received > self.limits.most_bytes:
                raise ConnectionError(
                    f"Expected an answer of at most {self.limits.most_bytes:,} bytes, but found more."
                )
            if time.monotonic() > self.limits.deadline:
                raise TimeoutError("Expected the whole answer in time, but the server was still sending it.")
            yield part

    def close(self) -> None:
        self.stream.close()
