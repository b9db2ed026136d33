"""Teacher that calls a remote chat model: an inference provider of the Hub or an OpenAI-compatible server."""

import base64
import logging
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from huggingface_hub import ChatCompletionOutput, InferenceClient
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

from tsrec_hf.models.checking_tsrec import checks_types

from .answer_limits import UNPACKED, answered_within
from .chat_teacher import ChatTeacher
from .teacher_prompt import Message


logger = logging.getLogger(__name__)

# Transient: rate limits, time-outs and the statuses of overloaded or restarting servers. These requests are retried.
PASSING_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
# Permanent: a wrong key, missing rights, a wrong address or model name. Every further question would fail as well.
FATAL_STATUSES = frozenset({401, 403, 404})


class InferenceClientTeacher(ChatTeacher):
    r"""
    Describes SID tokens with a remote chat model, called through [`~huggingface_hub.InferenceClient`].

    Transient failures (time-outs, broken connections, statuses such as 429 and 500, malformed responses) are retried
    with exponential backoff and full jitter; a longer `Retry-After` of the server is respected. A token whose question
    is refused (status 400 and similar) or gets no answer in any try is described by [`KeywordTeacher`]. After
    `max_failures` such questions in a row the run stops; the answers received so far are in the cache file. The
    statuses 401, 403 and 404 stop it at once.

    Args:
        model (`str`, *optional*):
            Hub id, or the name under which the server of `base_url` knows its model.
        provider (`str`, *optional*):
            Inference provider of the Hub; default: the Hub's choice.
        base_url (`str`, *optional*):
            URL of an OpenAI-compatible server, such as vLLM or llama.cpp: `"http://localhost:8000/v1"`. A user and a
            password in it go into a header, and stand in no message.
        token (`str`, *optional*):
            API key. Defaults to the Hub's token for providers and to no key for a `base_url`: the Hub's token is never
            sent to another server unless it is passed here.
        temperature (`float`, *optional*, defaults to `0.0`):
            Sampling temperature.
        max_tokens (`int`, *optional*, defaults to `1024`):
            Maximum length of an answer in tokens; longer ones are truncated.
        extra_body (`dict`, *optional*):
            Additional fields of the request body that the server supports.
        concurrency (`int`, *optional*, defaults to `8`):
            Maximum number of concurrent requests.
        timeout (`float`, *optional*, defaults to `120.0`):
            Time-out of a request in seconds, its answer included.
        max_tries (`int`, *optional*, defaults to `6`):
            Maximum number of tries of one request.
        backoff (`float`, *optional*, defaults to `1.0`):
            Upper bound of the first pause in seconds; it doubles with each try.
        max_backoff (`float`, *optional*, defaults to `60.0`):
            Upper bound of every pause, including those that a server requests.
        max_failures (`int`, *optional*, defaults to `5`):
            Number of consecutive unanswered questions after which the run stops.
        kwargs:
            Arguments of [`ChatTeacher`]: `sample_tokens`, `sample_items`, `max_retries`, `cache_file`.

    Example:

    ```python
    >>> from tsrec_hf.semantics import InferenceClientTeacher

    >>> teacher = InferenceClientTeacher("qwen", base_url="http://localhost:8000/v1", cache_file="answers.jsonl")
    >>> teacher.identity()["model"]
    'qwen'
    ```
    """

    @checks_types
    def __init__(
        self,
        model: str | None = None,
        provider: str | None = None,
        base_url: str | None = None,
        token: str | None = None,
        temperature: float = 0.0,
        max_tokens: int = 1024,
        extra_body: dict[str, Any] | None = None,
        concurrency: int = 8,
        timeout: float = 120.0,
        max_tries: int = 6,
        backoff: float = 1.0,
        max_backoff: float = 60.0,
        max_failures: int = 5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if model is None:
            raise ValueError(
                "Expected the name of a model, found none. Pass a Hub id, or the name that the server of `base_url` "
                "lists under `/models`."
            )
        if base_url is not None and provider is not None:
            raise ValueError(
                f"Expected either `provider` or `base_url`, found {provider!r} and {base_url!r}. Leave one out."
            )
        if min(concurrency, max_tries, max_tokens, max_failures) < 1 or timeout <= 0 or backoff < 0:
            raise ValueError(
                "Expected `concurrency`, `max_tries`, `max_tokens` and `max_failures` of at least 1, a positive "
                f"`timeout` and no negative `backoff`, found {concurrency}, {max_tries}, {max_tokens}, "
                f"{max_failures}, {timeout} and {backoff}."
            )
        if base_url is not None:
            base_url, headers = _without_password(base_url, token)
            # Without a token of its own the client would send the Hub's to this server.
            self.client = InferenceClient(
                base_url=base_url, token=token or "none", timeout=timeout, headers={**UNPACKED, **headers}
            )
        else:
            # The client checks the name; its annotation lists the providers of its own version.
            self.client = InferenceClient(
                provider=provider, token=token, timeout=timeout, headers=UNPACKED  # type: ignore[arg-type]
            )
        self.timeout = timeout
        self.has_address = base_url is not None
        self.model = model
        self.concurrency = concurrency
        self.max_tries = max_tries
        self.backoff = backoff
        self.max_backoff = max_backoff
        self.max_failures = max_failures
        self.settings: dict[str, Any] = {
            "temperature": temperature,
            "max_tokens": max_tokens,
            "extra_body": extra_body,
        }
        # The address is part of it: servers may serve different models under one name.
        where = {"provider": provider, "base_url": base_url}
        self._identity = {"teacher": type(self).__name__, "model": model, **where, **self.settings}
        self._stop = threading.Event()

    def identity(self) -> dict[str, Any]:
        """Returns the model, its provider or address, and the settings of the request."""
        return self._identity

    def ask(self, conversations: Sequence[list[Message]]) -> Iterator[tuple[int, str | None]]:
        """Yields answers in the order in which they arrive."""
        self._stop.clear()
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="teacher")
        failures = 0
        try:
            numbers = {pool.submit(self._ask, messages): number for number, messages in enumerate(conversations)}
            for future in as_completed(numbers):
                answer = future.result()
                failures = failures + 1 if answer is None else 0
                yield numbers[future], answer
                if failures >= self.max_failures:
                    raise ConnectionError(
                        f"Expected answers from {self.model!r}, but {failures} questions in a row got none; the log "
                        "has the reasons. See to the server, then run again with the same `cache_file`: what was "
                        "answered is not asked again."
                    )
        finally:
            # Also runs when the caller stops iterating or presses Ctrl-C: pauses end and no further request is sent.
            self._stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _send(self, messages: list[Message]) -> ChatCompletionOutput:
        return self.client.chat_completion([*messages], model=self.model, **self.settings)

    def _ask(self, messages: list[Message]) -> str | None:
        """Returns one answer, or `None` if every try fails."""
        for attempt in range(self.max_tries):
            if self._stop.is_set():
                return None
            pause = random.uniform(0, min(self.max_backoff, self.backoff * 2**attempt))
            try:
                output = answered_within(self.timeout, partial(self._send, messages))
                # An empty answer (a model that only calls tools) counts as a bad answer, not as a failed request.
                return output.choices[0].message.content or ""
            except HfHubHTTPError as error:
                status = error.response.status_code
                if status in FATAL_STATUSES:
                    # Here, since the other threads would go on until the caller's thread hears of it.
                    self._stop.set()
                    raise ConnectionError(
                        f"Expected an answer from {self.model!r}, but the server says {status}: {error}. Check "
                        "`token`, `base_url` (it usually ends in /v1) and the name of the model."
                    ) from error
                if status not in PASSING_STATUSES:
                    logger.warning("A question was refused: %s", error)
                    return None
                pause = max(pause, min(self.max_backoff, _retry_after(error)))
                reason: Exception = error
            except OfflineModeIsEnabled:
                raise  # its message names the variable to unset
            except (HTTPError, OSError) as error:
                reason = error
            except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
                if type(error) is ValueError and not self.has_address:
                    raise  # raised before sending: no key, or the model has no such provider
                # The body is not JSON or has no choices: the error page of a proxy, or a server that is starting.
                reason = ValueError(f"the response does not follow the chat protocol ({error!r})")
            logger.info("Try %d of %d failed: %s", attempt + 1, self.max_tries, reason)
            if attempt + 1 < self.max_tries and self._stop.wait(pause):
                return None
        logger.warning("No answer after %d tries: %s", self.max_tries, reason)
        return None


def _without_password(url: str, token: str | None) -> tuple[str, dict[str, str]]:
    """An address without a user's name and password, and the header that says these."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        shown = url.rpartition("@")[2]
        raise ValueError(f"Expected `base_url` such as 'http://localhost:8000/v1', but found {shown!r}. Correct it.")
    user, at, address = parts.netloc.rpartition("@")
    if not at:
        return url, {}
    if token is not None:
        raise ValueError(
            "Expected either `token` or a password in `base_url`, but found both. Leave one of the two out."
        )
    encoded = base64.b64encode(unquote(user).encode()).decode()
    return urlunsplit(parts._replace(netloc=address)), {"Authorization": f"Basic {encoded}"}


def _retry_after(error: HfHubHTTPError) -> float:
    """Returns the seconds of the `Retry-After` header; 0 if there is none."""
    value = error.response.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else 0.0
