"""From a trainer's view of a completion, token ids, to that of the rewards: codes, and the items that carry them."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from numbers import Real
from typing import Any

import numpy as np

from tsrec_hf.models import TSRecTokenizer


class RewardOnCodes:
    r"""
    Makes a function of codes a reward function of TRL's `GRPOTrainer`. `TSRecGRPOTrainer` does this by itself.

    The function is called with those of `codes`, `target_codes`, `items`, `target`, `num_generations` and the data
    set's columns that it names, and with all columns if it takes `**kwargs`. The target of each completion is the item
    id in its own row's `target`, so that equal prompts may have different targets.

    Args:
        function (`Callable`):
            Such as [`exact_match_reward`]; may be a `functools.partial`.
        tokenizer ([`TSRecTokenizer`]):
            The recommender's tokenizer.
        num_generations (`int`, *optional*):
            Completions of a group, for functions that rank them.

    Raises:
        `KeyError`: a target that the index does not hold. `TypeError`: rewards that are no numbers. `ValueError`: rows
        without `target`; another number of rewards than of completions, or of levels.

    Example:

    ```python
    >>> from tsrec_hf import RewardOnCodes, exact_match_reward

    >>> reward = RewardOnCodes(exact_match_reward, tokenizer)
    >>> ids = tokenizer.encode_sids(["nail", "apple"])
    >>> reward(prompts=["", ""], completions=["", ""], completion_ids=ids, target=["nail", "nail"])
    [1.0, 0.0]
    ```
    """

    def __init__(self, function: Callable, tokenizer: TSRecTokenizer, num_generations: int | None = None):
        self.function = function
        self.reader = CompletionReader(tokenizer)
        self.num_generations = num_generations
        inner = function
        while isinstance(inner, partial):
            inner = inner.func
        self.__name__ = getattr(inner, "__name__", type(inner).__name__)

    @staticmethod
    def applies_to(function: Any) -> bool:
        """Whether a reward function asks for codes or items, and not for what TRL passes by itself."""
        if not callable(function) or isinstance(function, RewardOnCodes) or hasattr(function, "parameters"):
            return False
        return bool({"codes", "items"} & set(inspect.signature(function).parameters))

    def __call__(self, prompts, completions, completion_ids, **columns) -> list[float]:
        """Rewards of completions, in the form TRL asks for; completions that are no SID get `None`."""
        values = self.values(completion_ids, **columns)
        return [None if value is None else float(np.sum(value)) for value in values]

    def values(self, completion_ids: Sequence[Sequence[int]], **columns) -> list[Any]:
        """
        What the function returns for each completion: a number, or one for each level; `None` where no SID is, or
        where the function says so.
        """
        if "target" not in columns:
            raise ValueError(
                f"Expected rows with a `target`, an item id, for the reward {self.__name__!r}, but found the columns "
                f"{sorted(columns)}. Add the column, and set `remove_unused_columns=False` in a stock trainer."
            )
        codes = self.reader.codes_of(completion_ids)
        valid = (codes >= 0).all(axis=1)
        if self.num_generations is not None and not valid.all():
            # Ranks within a group must stay: what is no SID is a miss like any other.
            codes, valid = np.where(valid[:, None], codes, -1), np.ones_like(valid)
        target = [item for item, kept in zip(columns["target"], valid) if kept]
        index = self.reader.tokenizer.sid_index
        known = {
            "codes": codes[valid],
            "target_codes": index.codes[index.positions_of(target)],
            "num_generations": self.num_generations,
            "target": target,
        }
        parameters = inspect.signature(self.function).parameters
        if "items" in parameters:
            known["items"] = [index.items_of(row) if min(row) >= 0 else [] for row in codes[valid].tolist()]
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        for name, value in columns.items():
            if name not in known and (takes_all or name in parameters):
                # Columns have a value for each completion; what TRL adds has not.
                is_column = isinstance(value, list) and len(value) == len(valid)
                known[name] = [entry for entry, kept in zip(value, valid) if kept] if is_column else value
        names = [name for name in known if name in parameters or (takes_all and name in columns)]
        rewards = iter(self._checked(self.function(**{name: known[name] for name in names}), int(valid.sum())))
        return [next(rewards) if kept else None for kept in valid]

    def _checked(self, rewards: Any, num_completions: int) -> list[Any]:
        """Rewards as a list of numbers, of lists of numbers, or of `None`."""
        rewards = rewards.tolist() if hasattr(rewards, "tolist") else rewards
        is_list = isinstance(rewards, Iterable) and not isinstance(rewards, str)
        rewards = list(rewards) if is_list else rewards
        if not is_list or len(rewards) != num_completions:
            found = len(rewards) if is_list else f"`{type(rewards).__name__}`"
            raise (ValueError if is_list else TypeError)(
                f"Expected the reward {self.__name__!r} to give a reward for each of {num_completions} completions, "
                f"but found {found}. Return a list, with `None` where the reward does not apply."
            )
        rewards = [reward.tolist() if hasattr(reward, "tolist") else reward for reward in rewards]
        num_levels = self.reader.tokenizer.sid_index.num_levels
        for reward in rewards:
            numbers = reward if isinstance(reward, Sequence) and not isinstance(reward, str) else [reward]
            is_number = reward is None or all(isinstance(number, Real) for number in numbers)
            if not is_number or (numbers is reward and len(reward) != num_levels):
                raise (ValueError if is_number else TypeError)(
                    f"Expected the reward {self.__name__!r} to give numbers, or one for each of {num_levels} levels, "
                    f"but found {reward!r}. Return `None` where the reward does not apply."
                )
        return rewards


class CompletionReader:
    """
    Reads the codes of completions off their token ids.

    Args:
        tokenizer ([`TSRecTokenizer`]):
            The recommender's tokenizer.
    """

    def __init__(self, tokenizer: TSRecTokenizer):
        self.tokenizer = tokenizer
        # By attribute: an index that grows later has the same tokens.
        self._codes = [{token_id: code for code, token_id in enumerate(ids)} for ids in tokenizer.sid_token_ids]

    def codes_of(self, completion_ids: Sequence[Sequence[int]]) -> np.ndarray:
        """
        Codes of completions: int64 of shape `(completions, levels)`, -1 where a token is not one of its level. What
        follows the SID, such as an end token, does not matter.
        """
        return np.array(
            [
                [codes.get(ids[level], -1) if level < len(ids) else -1 for level, codes in enumerate(self._codes)]
                for ids in completion_ids
            ],
            dtype=np.int64,
        ).reshape(len(completion_ids), len(self._codes))
