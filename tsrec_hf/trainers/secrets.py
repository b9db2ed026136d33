"""Strings that are written nowhere."""

from collections.abc import Callable
from typing import Any


class Secret(str):
    """
    A string that is pickled as `None`: `Trainer` pickles all settings into `training_args.bin`, which is pushed.

    Example:

    ```python
    >>> import pickle
    >>> from tsrec_hf.trainers.secrets import Secret

    >>> token = Secret("hf_abc")
    >>> token == "hf_abc", token, b"hf_abc" in pickle.dumps({"hub_token": token})
    (True, Secret(...), False)
    ```
    """

    def __repr__(self) -> str:
        return "Secret(...)"

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, memo: Any) -> "Secret":
        return self

    def __reduce_ex__(self, protocol: Any) -> tuple[Callable[[], None], tuple]:
        return _nothing, ()


def _nothing() -> None:
    """What a secret is when it is read again."""
