"""
The recommender in a process of its own: it is started again when it dies, and its queue has an end.

torch and Gradio take two to three seconds to import, each. In two processes they do it at once, and the page stays
quick while the recommender computes.
"""

import logging
import os
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from threading import Lock, Thread


logger = logging.getLogger(__name__)

# Questions that wait or are answered. Those who wait longer than their patience lasts ask again.
MOST_WAITING = 64

# In the recommender's process only.
_recommender = None


class Worker:
    """
    Asks a recommender in another process.

    Args:
        checkpoint (`str`):
            Folder or Hub id.
        revision (`str`, *optional*):
            Commit, branch or tag of a Hub id.
        most_waiting (`int`, *optional*):
            Questions that may wait.

    Attributes:
        loading (`Future`): Done when the recommender is loaded; raises what its loading raised.
    """

    def __init__(self, checkpoint: str, revision: str | None = None, most_waiting: int = MOST_WAITING):
        self.source, self.most_waiting = (checkpoint, revision), most_waiting
        self._lock, self._waiting = Lock(), 0
        self._start()

    def _start(self) -> None:
        self._process = ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"))
        self.loading: Future = self._process.submit(load, *self.source)

    def ask(self, method: str, *arguments):
        """
        Calls a method of the recommender.

        Raises:
            `ValueError`: too many wait, or the process died and is started again. All else as the method raises it.
        """
        with self._lock:
            if self._waiting >= self.most_waiting:
                raise ValueError(f"{self._waiting} questions are waiting for the recommender. Ask again in a minute.")
            self._waiting += 1
            process = self._process
        try:
            return process.submit(call, method, *arguments).result()
        except BrokenProcessPool:
            with self._lock:
                if process is self._process:  # the first to notice
                    logger.warning("The recommender's process died; it is started again.")
                    process.shutdown(wait=False)
                    self._start()
            raise ValueError("The recommender stopped and is being started again. Ask again in a moment.") from None
        finally:
            with self._lock:
                self._waiting -= 1

    def close(self) -> None:
        """Ends the process."""
        self._process.shutdown(wait=False, cancel_futures=True)


def load(checkpoint: str, revision: str | None) -> None:
    """Loads the recommender in its process."""
    global _recommender
    if os.name == "posix":
        # Where cores are few, the page comes first.
        os.nice(10)
    from recommender import Recommender

    Thread(target=end_with_the_page, daemon=True).start()
    _recommender = Recommender(checkpoint, revision)


def end_with_the_page() -> None:
    """Without it the process would outlive a page that is killed."""
    parent_process().join()
    os._exit(0)


def call(method: str, *arguments):
    """Calls a method of the recommender in its process."""
    return getattr(_recommender, method)(*arguments)
