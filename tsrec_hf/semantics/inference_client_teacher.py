"""A teacher elsewhere: the Hub's inference providers, or any server that speaks OpenAI's chat protocol."""

import logging
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

from .chat_teacher import ChatTeacher
from .teacher_prompt import Message


logger = logging.getLogger(__name__)

# Too early, too many requests, time-outs and what servers say when they are overloaded or restarting.
PASSING_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
# Key, rights, address or name of the model: true of every question.
FATAL_STATUSES = frozenset({401, 403, 404})


class InferenceClientTeacher(ChatTeacher):
    r"""
    Describes SID tokens with a chat model behind an HTTP interface, by [`~huggingface_hub.InferenceClient`].

    Requests that fail in passing (time-outs, broken connections, statuses such as 429 and 500, bodies that are not the
    protocol's) are repeated after a random pause whose limit doubles each time, or after what the server asks for in
    `Retry-After`. A question that is refused (400 and its like) or that no try gets answered is left to
    [`KeywordTeacher`], and after `max_failures` of them in a row the run stops: the answers so far are in the cache
    file. 401, 403 and 404 stop it at once.

    Args:
        model (`str`, *optional*):
            Hub id, or the name under which the server of `base_url` knows its model.
        provider (`str`, *optional*):
            Inference provider of the Hub; default: the Hub's choice.
        base_url (`str`, *optional*):
            A server that speaks OpenAI's protocol, such as vLLM or llama.cpp: `"http://localhost:8000/v1"`.
        token (`str`, *optional*):
            Key of the service. Default: that of the Hub for providers and none for a `base_url`, which never sees the
            Hub's token unless it is passed here.
        temperature (`float`, *optional*, defaults to `0.0`):
            Temperature of sampling.
        max_tokens (`int`, *optional*, defaults to `1024`):
            Tokens after which an answer is cut off.
        extra_body (`dict`, *optional*):
            Further fields of the request that the server knows.
        concurrency (`int`, *optional*, defaults to `8`):
            Most requests under way at once.
        timeout (`float`, *optional*, defaults to `120.0`):
            Seconds of silence after which a try is given up.
        max_tries (`int`, *optional*, defaults to `6`):
            Tries of one request.
        backoff (`float`, *optional*, defaults to `1.0`):
            Limit of the first pause in seconds.
        max_backoff (`float`, *optional*, defaults to `60.0`):
            Limit of any pause, those that a server asks for among them.
        max_failures (`int`, *optional*, defaults to `5`):
            Questions in a row without an answer after which the run stops.
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
            # Without a token of its own the client would send the Hub's to this server.
            self.client = InferenceClient(base_url=base_url, token=token or "none", timeout=timeout)
        else:
            self.client = InferenceClient(provider=provider, token=token, timeout=timeout)
        self.has_address = base_url is not None
        self.model = model
        self.concurrency = concurrency
        self.max_tries = max_tries
        self.backoff = backoff
        self.max_backoff = max_backoff
        self.max_failures = max_failures
        self.settings = {"temperature": temperature, "max_tokens": max_tokens, "extra_body": extra_body}
        # The address is part of it: servers may serve different models under one name.
        where = {"provider": provider, "base_url": base_url}
        self._identity = {"teacher": type(self).__name__, "model": model, **where, **self.settings}
        self._stop = threading.Event()

    def identity(self) -> dict[str, Any]:
        """Model, provider or address, and settings of the request."""
        return self._identity

    def ask(self, conversations: Sequence[list[Message]]) -> Iterator[tuple[int, str | None]]:
        """Answers in the order in which they come."""
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
            # Also when the caller stops listening or presses Ctrl-C: nobody sleeps on, nothing new is sent.
            self._stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _ask(self, messages: list[Message]) -> str | None:
        """One answer, `None` if no try brings one."""
        for attempt in range(self.max_tries):
            pause = random.uniform(0, min(self.max_backoff, self.backoff * 2**attempt))
            try:
                output = self.client.chat_completion(messages, model=self.model, **self.settings)
                # An empty answer, as of a model that only calls tools, is an answer all the same: a bad one.
                return output.choices[0].message.content or ""
            except HfHubHTTPError as error:
                status = error.response.status_code
                if status in FATAL_STATUSES:
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
                raise  # says itself which variable to unset
            except (HTTPError, OSError) as error:
                reason = error
            except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
                if type(error) is ValueError and not self.has_address:
                    raise  # the client cannot ask: no key, or no such provider of this model
                # A body that is no JSON, or has no choices: a proxy's error page, a server that starts up.
                reason = ValueError(f"the response does not follow the chat protocol ({error!r})")
            logger.info("Try %d of %d failed: %s", attempt + 1, self.max_tries, reason)
            if attempt + 1 < self.max_tries and self._stop.wait(pause):
                return None
        logger.warning("No answer after %d tries: %s", self.max_tries, reason)
        return None


def _retry_after(error: HfHubHTTPError) -> float:
    """Seconds that the server asks to wait; 0 if it names none."""
    value = error.response.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else 0.0
