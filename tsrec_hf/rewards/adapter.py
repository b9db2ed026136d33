"""From a trainer's view of a completion, token ids, to that of the rewards: codes, and the items that carry them."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any, TypeAlias

import numpy as np

from tsrec_hf.models import TSRecTokenizer
from tsrec_hf.models.checking_tsrec import checks_types


# What a reward function says of one completion: a number, one for each level, or that it does not apply.
Reward: TypeAlias = float | Sequence[float] | None


class RewardOnCodes:
    r"""
    Makes a function of codes a reward function of TRL's `GRPOTrainer`. `TSRecGRPOTrainer` does this by itself.

    The function is called with those of `codes`, `target_codes`, `items`, `target`, `num_generations` and the data
    set's columns that it names, and with all columns if it takes `**kwargs`. The target of each completion is the item
    id in its own row's `target`, so that equal prompts may have different targets.

    Completions that are no SID, which only stock trainers generate, are a miss: a function that ranks (one that names
    `num_generations`) gets them in their places with codes of -1 and without items, since ranks within a group must
    stay. All others do not see them, so that no function can take -1 for an index, and `miss` is their reward.

    Args:
        function (`Callable`):
            Such as [`exact_match_reward`]; may be a `functools.partial`.
        tokenizer ([`TSRecTokenizer`]):
            The recommender's tokenizer.
        num_generations (`int`, *optional*):
            Completions of a group, for functions that rank them.
        miss (`float`, *optional*, defaults to `0.0`):
            Reward of a completion that is no SID, where the function does not rank.

    Raises:
        `KeyError`: a target that the index does not hold. `TypeError`: rewards that are no numbers. `ValueError`: rows
        without `target`; another number of rewards than of completions, or of levels.

    Example:

    ```python
    >>> from tsrec_hf import RewardOnCodes

    >>> def first_level_reward(codes, target_codes):
    ...     return (codes[:, 0] == target_codes[:, 0]).astype(float)
    >>> reward = RewardOnCodes(first_level_reward, tokenizer)
    >>> ids = tokenizer.encode_sids(["saw", "apple"])
    >>> reward(prompts=["", ""], completions=["", ""], completion_ids=ids, target=["nail", "nail"])
    [1.0, 0.0]
    ```

    [`TSRecGRPOTrainer`] takes such a function as it is: `TSRecGRPOTrainer(model, first_level_reward, ...)`.
    """

    @checks_types
    def __init__(
        self,
        function: Callable,
        tokenizer: TSRecTokenizer,
        num_generations: int | None = None,
        miss: float = 0.0,
    ):
        self.function = function
        self.reader = CompletionReader(tokenizer)
        self.num_generations = num_generations
        self.miss = miss
        self._parameters = inspect.signature(function).parameters
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

    def __call__(self, prompts, completions, completion_ids, **columns) -> list[float | None]:
        """Rewards of completions, in the form TRL asks for; `None` where the function says so."""
        return [summed(value) for value in self.values(completion_ids, **columns)]

    def values(
        self, completion_ids: Sequence[Sequence[int]], num_generations: int | None = None, **columns
    ) -> list[Reward]:
        """
        Rewards of completions, level by level where the function gives them so.

        Args:
            completion_ids (`Sequence[Sequence[int]]`):
                Token ids of each completion.
            num_generations (`int`, *optional*):
                Completions of a group. Defaults to the attribute.
            columns (*optional*):
                Columns of the data set, `target` among them, with a value for each completion.

        Returns:
            `list`: For each completion a number, or one for each level; `None` where the function says so.
        """
        if "target" not in columns:
            raise ValueError(
                f"Expected rows with a `target`, an item id, for the reward {self.__name__!r}, but found the columns "
                f"{sorted(columns)}. Add the column, and set `remove_unused_columns=False` in a stock trainer."
            )
        codes = self.reader.codes_of(completion_ids)
        is_sid: np.ndarray = np.all(codes >= 0, axis=1)  # (completions,)
        codes[~is_sid] = -1
        ranks = "num_generations" in self._parameters
        seen = np.ones_like(is_sid) if ranks else is_sid  # what the function is shown
        index = self.reader.tokenizer.sid_index
        target = [item for item, shown in zip(columns["target"], seen.tolist()) if shown]
        known: dict[str, Any] = {
            "codes": codes[seen],
            "target_codes": index.codes[index.positions_of(target)],
            "num_generations": self.num_generations if num_generations is None else num_generations,
            "target": target,
        }
        if "items" in self._parameters:
            known["items"] = [index.items_of(row) if row[0] >= 0 else [] for row in codes[seen].tolist()]
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in self._parameters.values())
        for name, value in columns.items():
            if name not in known and (takes_all or name in self._parameters):
                # Columns have a value for each completion; what TRL adds has not.
                is_column = isinstance(value, list) and len(value) == len(seen)
                known[name] = [entry for entry, shown in zip(value, seen.tolist()) if shown] if is_column else value
        names = [name for name in known if name in self._parameters or (takes_all and name in columns)]
        if len(seen) and not seen.any():
            return [self.miss] * len(seen)
        rewards = iter(self._checked(self.function(**{name: known[name] for name in names}), int(seen.sum())))
        return [next(rewards) if shown else self.miss for shown in seen.tolist()]

    def _checked(self, rewards: Any, num_completions: int) -> list[Reward]:
        """Rewards as a list of numbers, of lists of numbers, or of `None`."""
        rewards = plain_rewards(rewards)
        is_list = isinstance(rewards, list)
        if not is_list or len(rewards) != num_completions:
            found = len(rewards) if is_list else f"`{type(rewards).__name__}`"
            raise (ValueError if is_list else TypeError)(
                f"Expected the reward {self.__name__!r} to give a reward for each of {num_completions} completions, "
                f"but found {found}. Return a list, with `None` where the reward does not apply."
            )
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


def plain_rewards(rewards: Any) -> Any:
    """
    What a reward function returned, as a list of Python's numbers or of lists of them: tensors and arrays of any type,
    on any device, with a gradient or without. What is no collection stays as it is.
    """
    if hasattr(rewards, "tolist"):
        return rewards.tolist()
    if not isinstance(rewards, Iterable) or isinstance(rewards, (str, Mapping)):
        return rewards
    return [plain_rewards(reward) for reward in rewards]


def summed(reward: Reward) -> float | None:
    """A completion's reward as one number: the sum of its levels."""
    return None if reward is None else float(np.sum(reward))


class CompletionReader:
    """
    Reads the codes of completions off their token ids.

    Args:
        tokenizer ([`TSRecTokenizer`]):
            The recommender's tokenizer.
    """

    def __init__(self, tokenizer: TSRecTokenizer):
        self.tokenizer = tokenizer
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
