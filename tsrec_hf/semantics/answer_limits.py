"""
Bounds on what a teacher's server may send: bytes, and time in all.

A time-out of an HTTP client counts silence. A server that sends a byte now and then, or never stops, is bounded by
nobody: its answers are read through an [`httpx2`] hook, which sees a response before its body, and waited for so long.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Thread
from typing import TypeVar

import httpx2
from huggingface_hub.utils import get_session


# An answer has at most some thousand tokens. Error pages of proxies are as long.
MOST_BYTES = 4 << 20
# A body that is packed could unpack to a thousand times its size.
UNPACKED = {"Accept-Encoding": "identity"}
# Seconds by which the bound on the body, which says more, comes first.
GRACE = 0.5

T = TypeVar("T")


@dataclass
class _Limits:
    deadline: float
    most_bytes: int


_here = threading.local()


def answered_within(seconds: float, ask: Callable[[], T]) -> T:
    """
    Calls `ask`, whose requests of `huggingface_hub` end by an error when their answers are too long.

    The call has a thread of its own, since nothing but its end stops a server that sends its headers byte by byte.
    Such a thread is left behind, and ends with the connection.

    Args:
        seconds (`float`):
            Time until the body is there, in all.
        ask (`Callable`):
            Sends one request.

    Raises:
        `TimeoutError`: the time is over. `ConnectionError`: a body that is longer, or packed. All else as `ask`
        raises it.
    """
    hooks = get_session().event_hooks["response"]
    if _bound not in hooks:
        hooks.append(_bound)
    outcome: Future[T] = Future()
    Thread(target=_ask_into, args=(outcome, ask, seconds), name="question", daemon=True).start()
    try:
        return outcome.result(seconds + GRACE)
    except TimeoutError:
        if outcome.done():
            raise
        raise TimeoutError(f"Expected an answer within {seconds:g} s, but found not even its headers.") from None


def _ask_into(outcome: Future, ask: Callable, seconds: float) -> None:
    _here.limits = _Limits(time.monotonic() + seconds, MOST_BYTES)
    try:
        outcome.set_result(ask())
    except BaseException as error:
        outcome.set_exception(error)


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
