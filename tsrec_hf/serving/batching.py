"""
Dynamic batching: requests that arrive together are searched together.

A forward pass over one user costs about as much as over several, since the weights have to be read either way. One
thread holds the model. It waits a few milliseconds for others when a request comes, and takes all that came while it
was searching, so that batches grow with the load by themselves.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from threading import Condition, Lock, Thread
from time import monotonic
from typing import Any, NamedTuple

from tsrec_hf.models import SIDIndex, TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.models.handler import RecommendationRequest, client_parameters


# Options that `recommend` takes for each user apart: requests that differ in these alone are searched together.
OF_A_USER = ("allowed_items", "exclude_items")


class ServerBusy(RuntimeError):
    """More is waiting than may wait, or the server is being stopped: ask again later, or ask another one."""


class _Waiting(NamedTuple):
    request: RecommendationRequest
    future: Future
    since: float


class RequestBatcher:
    r"""
    Answers requests for recommendations in batches, from a thread of its own.

    Every request gets what `recommend` finds for it alone, whatever it is batched with. Requests of different options
    are searched one after the other, and one that cannot be answered takes no other along.

    Args:
        model ([`TSRecForCausalLM`]):
            The recommender. Nobody else should search with it meanwhile.
        tokenizer ([`TSRecTokenizer`]):
            Its tokenizer.
        max_batch_size (`int`, *optional*, defaults to `32`):
            Most users that are searched together.
        max_delay (`float`, *optional*, defaults to `0.005`):
            Seconds that a request waits for others to share its batch.
        max_waiting (`int`, *optional*, defaults to `1000`):
            Most users that may wait; beyond them requests are refused.
        on_batch (`Callable`, *optional*):
            Called after every search with the number of its users and its seconds: for metrics.

    Example:

    ```python
    >>> from tsrec_hf.serving import RequestBatcher

    >>> with RequestBatcher(model, tokenizer) as batcher:
    ...     answer = batcher.submit({"inputs": ["hammer", "nail"], "parameters": {"top_k": 2, "num_beams": 8}})
    ...     [item["item_id"] for item in answer.result()]
    ['nail', 'screw']
    ```
    """

    def __init__(
        self,
        model: TSRecForCausalLM,
        tokenizer: TSRecTokenizer,
        max_batch_size: int = 32,
        max_delay: float = 0.005,
        max_waiting: int = 1000,
        on_batch: Callable[[int, float], None] | None = None,
    ):
        model.check_tokenizer(tokenizer)
        for name, value in (("max_batch_size", max_batch_size), ("max_waiting", max_waiting)):
            if value < 1:
                raise ValueError(f"Expected `{name}` of at least 1, but found {value}.")
        if not 0 <= max_delay < 60:
            raise ValueError(f"Expected `max_delay` in seconds, from 0 to 60, but found {max_delay}.")
        self.model, self.tokenizer = model, tokenizer
        self.max_batch_size, self.max_delay, self.max_waiting = max_batch_size, max_delay, max_waiting
        self.parameters = client_parameters(model.recommend)
        self._on_batch = on_batch
        self._queue: deque[_Waiting] = deque()
        self._num_waiting = 0
        self._change: tuple[SIDIndex, Future] | None = None
        self._closing = False
        # Guards all of the above; told when something is put there.
        self._changed = Condition()
        self._growing = Lock()
        self._thread = Thread(target=self._work, name="tsrec-search", daemon=True)
        self._thread.start()

    def __enter__(self) -> "RequestBatcher":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    @property
    def num_waiting(self) -> int:
        """Users whose requests wait for a search."""
        return self._num_waiting

    @property
    def is_open(self) -> bool:
        """Whether requests are taken."""
        return self._thread.is_alive() and not self._closing

    def submit(self, data: dict[str, Any]) -> Future:
        """
        Puts a request among those that wait.

        Args:
            data (`dict`):
                `inputs` and `parameters`, as an Inference Endpoint takes them.

        Returns:
            `Future`: the answer as the endpoint gives it: a list of `item_id`, `sid`, `score`, `title`, ..., or a list
            of such lists. It raises `ValueError` where `recommend` finds fault with the request. A future that is
            cancelled before its search begins costs nothing.

        Raises:
            `ValueError`: a request of another form. [`ServerBusy`]: too many wait, or the batcher is closed.
        """
        request = RecommendationRequest.parse(data, self.parameters)
        number = len(request.histories)
        with self._changed:
            if not self.is_open:
                raise ServerBusy("The server is stopping and takes no more requests. Ask another one.")
            # One that is larger than what may wait is taken when nothing else waits.
            if self._num_waiting and self._num_waiting + number > self.max_waiting:
                raise ServerBusy(
                    f"{self._num_waiting} users wait for their recommendations, and at most {self.max_waiting} may. "
                    "Ask again in a moment."
                )
            future: Future = Future()
            self._queue.append(_Waiting(request, future, monotonic()))
            self._num_waiting += number
            self._changed.notify()
        return future

    def change_items(self, change: Callable[[SIDIndex], SIDIndex]) -> SIDIndex:
        """
        Changes the catalogue while requests are answered.

        The new index and its trie are made by the caller's thread, one change after the other. Searches that have
        begun end with the old catalogue; those that begin after the return know the new one.

        Args:
            change (`Callable`):
                Makes an index out of the present one, by `with_items` or `without_items`.

        Returns:
            [`SIDIndex`]: The new catalogue.

        Raises:
            What the change raises, and `ValueError` for an index that did not grow out of the present one; the
            catalogue then stays as it was. [`ServerBusy`]: the batcher is closed.

        Example:

        ```python
        >>> with RequestBatcher(model, tokenizer) as batcher:
        ...     index = batcher.change_items(lambda index: index.with_items(["axe"], [[1, 2, 0]], ["axe"]))
        ...     answer = batcher.submit({"inputs": ["axe"], "parameters": {"top_k": 1}}).result()
        >>> len(index)
        9
        ```
        """
        with self._growing:
            index = change(self.tokenizer.sid_index)
            index.trie_on(self.model.device)  # made here, so that no search waits for it
            future: Future = Future()
            with self._changed:
                if not self.is_open:
                    raise ServerBusy("The server is stopping and changes its catalogue no more. Ask another one.")
                self._change = index, future
                self._changed.notify()
            future.result()
            return index

    def close(self) -> None:
        """Takes no more requests, answers those that wait, and ends the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next_batch():
            for group in _groups(batch):
                self._answer(group)

    def _next_batch(self) -> list[_Waiting]:
        """Requests of together about `max_batch_size` users, as soon as they are there; none at the end."""
        with self._changed:
            while not self._queue and not self._closing or self._change:
                self._changed.wait_for(lambda: self._queue or self._change or self._closing)
                self._change_index()
            if self._queue:
                left = self._queue[0].since + self.max_delay - monotonic()
                self._changed.wait_for(lambda: self._num_waiting >= self.max_batch_size or self._closing, left)
            batch: list[_Waiting] = []
            users = 0
            while self._queue and (not batch or users + len(self._queue[0].request.histories) <= self.max_batch_size):
                waiting = self._queue.popleft()
                number = len(waiting.request.histories)
                self._num_waiting -= number
                if waiting.future.set_running_or_notify_cancel():
                    batch.append(waiting)
                    users += number
            return batch

    def _change_index(self) -> None:
        """Puts a new catalogue in place, between two searches: the tokenizer's prior changes with it."""
        if self._change is None:
            return
        index, future = self._change
        self._change = None
        try:
            self.tokenizer.sid_index = index
            future.set_result(None)
        except Exception as error:
            future.set_exception(error)

    def _answer(self, group: Sequence[_Waiting]) -> None:
        requests = [waiting.request for waiting in group]
        histories = [history for request in requests for history in request.histories]
        started = monotonic()
        try:
            lists = self.model.recommend(
                self.tokenizer, histories, batch_size=self.max_batch_size, **_merged_parameters(requests)
            )
        except Exception as error:
            if len(group) > 1:
                # One request is to blame. What is wrong shows before a search, so that looking for it costs little.
                middle = len(group) // 2
                self._answer(group[:middle])
                self._answer(group[middle:])
                return
            if isinstance(error, (KeyError, TypeError)):
                error = ValueError(str(error.args[0]) if error.args else repr(error))
            group[0].future.set_exception(error)
            return
        seconds = monotonic() - started
        for waiting in group:
            number = len(waiting.request.histories)
            waiting.future.set_result(waiting.request.answer(lists[:number]))
            lists = lists[number:]
        if self._on_batch is not None:
            self._on_batch(len(histories), seconds)


def _groups(batch: Sequence[_Waiting]) -> Iterator[list[_Waiting]]:
    """Requests whose options allow one search for all of them, in the order in which they came."""
    groups: dict[Any, list[_Waiting]] = {}
    for number, waiting in enumerate(batch):
        parameters = waiting.request.parameters
        key: Any = number
        if _is_mergeable(waiting.request):
            shared = {name: value for name, value in parameters.items() if name not in OF_A_USER}
            own = [name for name in OF_A_USER if parameters.get(name) is not None]
            key = json.dumps([shared, own], sort_keys=True)
        groups.setdefault(key, []).append(waiting)
    yield from groups.values()


def _is_mergeable(request: RecommendationRequest) -> bool:
    """Whether the options say what they say for each user: those that are lists by user, or malformed, stay alone."""
    prior = request.parameters.get("prior")
    return (prior is None or isinstance(prior, (str, dict))) and all(
        _sets_of_users(request, name) is not None for name in OF_A_USER if request.parameters.get(name) is not None
    )


def _sets_of_users(request: RecommendationRequest, name: str) -> list[list[str]] | None:
    """A set of items for each user of a request; `None` for anything that does not say one."""
    items, number = request.parameters[name], len(request.histories)
    if isinstance(items, list) and all(isinstance(item, str) for item in items):
        return [items] * number
    if isinstance(items, list) and len(items) == number and all(isinstance(row, list) for row in items):
        return items
    return None


def _merged_parameters(requests: Sequence[RecommendationRequest]) -> dict[str, Any]:
    """Options of one search for several requests of a group."""
    merged = dict(requests[0].parameters)
    if len(requests) > 1:
        for name in OF_A_USER:
            if merged.get(name) is not None:
                merged[name] = [row for request in requests for row in _sets_of_users(request, name) or []]
    return merged
