"""A run within a given time, whatever the speed of the machine."""

import time

from tsrec_hf.models.checking_tsrec import checks_types


class RunClock:
    r"""
    Divides the time of a run among its stages, and prints a line for each.

    Args:
        total_seconds (`float`):
            Time for the whole run.
        since (`float`, *optional*):
            When it began, as `time.time()` counts. Defaults to now.

    Example:

    ```python
    >>> from tsrec_hf.trainers import RunClock

    >>> clock = RunClock(total_seconds=600)
    >>> clock.say("Catalogue", "8 items")
    [  0 s] Catalogue: 8 items
    >>> clock.affordable(1000, row_seconds=3.0, share=0.5)  # Half of 600 seconds is enough for about 100 rows.
    99
    ```
    """

    @checks_types
    def __init__(self, total_seconds: float, since: float | None = None) -> None:
        self.total_seconds = total_seconds
        # Of the monotonic clock, which nobody sets back during a run.
        self._start = time.monotonic() - (0.0 if since is None else time.time() - since)

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._start

    @property
    def left(self) -> float:
        """Seconds until the run has to end; negative past that."""
        return self.total_seconds - self.elapsed

    def say(self, stage: str, text: object) -> None:
        """Prints one line: the time, the stage, and what is to be known of it."""
        print(f"[{self.elapsed:3.0f} s] {stage}: {text}", flush=True)

    def affordable(self, num_rows: int, row_seconds: float, share: float = 1.0, at_least: int = 50) -> int:
        """
        How many rows a share of the time left is enough for.

        Args:
            num_rows (`int`):
                Rows that are wanted: the most.
            row_seconds (`float`):
                Seconds that each takes.
            share (`float`, *optional*, defaults to `1.0`):
                Share of the time left that they may take.
            at_least (`int`, *optional*, defaults to `50`):
                Rows below which a figure says nothing: taken whatever the time, but not above `num_rows`.
        """
        return min(num_rows, max(at_least, int(share * self.left / row_seconds)))
