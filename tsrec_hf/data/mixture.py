"""The SFT mixture: rows of all tasks, tokenised, sampled by weight and shuffled."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from tsrec_hf.items import RecommendationDataset
from tsrec_hf.items.dataset import SPLITS
from tsrec_hf.models import PromptBuilder, TSRecTokenizer
from tsrec_hf.models.checking_tsrec import checks_types
from tsrec_hf.semantics import TokenSemantics

from .interactions import InteractionReader, is_log
from .rows import ROW_FEATURES, hash_of_tables, rows_on_disk, tokenize_rows
from .tasks import BUILT_IN_TASKS, AlignmentTask, HistoryTitleTask, SequenceTask, Task, TitleTask
from .text_length import MAX_TEXT_TOKENS


# Rows that are read at once.
BATCH_SIZE = 1000
# Tasks whose rows depend on the data set, the tokenizer and their own fields alone. A subclass is not one of them.
BUILT_IN_TYPES = (SequenceTask, TitleTask, HistoryTitleTask, AlignmentTask)


@checks_types
def build_sft_mixture(
    dataset: RecommendationDataset,
    semantics: TokenSemantics | None,
    tokenizer: TSRecTokenizer,
    tasks: Sequence[str | Task] = BUILT_IN_TASKS,
    weights: Mapping[str, float] | None = None,
    split: str = "train",
    sequence_mode: Literal["session", "window"] = "session",
    keywords: bool = False,
    seed: int = 42,
    max_text_tokens: int = MAX_TEXT_TOKENS,
    targets_per_stretch: int | None = None,
    log: Dataset | None = None,
    num_proc: int | None = None,
) -> Dataset:
    r"""
    Builds the rows of several tasks as one shuffled data set, ready for [`TSRecSFTTrainer`].

    Rows are written to disk as they are made, so that memory does not grow with the interactions. The result is cached
    on disk by `datasets`: the same arguments give the same rows without tokenising again. Your own tasks build their
    rows at every call, and the cache is used only if these have not changed.

    Args:
        dataset ([`RecommendationDataset`]):
            Items and interactions.
        semantics ([`TokenSemantics`]):
            Descriptions of the SID tokens; may be `None` without the task `"alignment"`.
        tokenizer ([`TSRecTokenizer`]):
            Tokenizer with the SID index.
        tasks (`Sequence`, *optional*, defaults to the four built-in tasks):
            Names among `"sequence"`, `"title"`, `"history_title"` and `"alignment"`, and tasks of your own: objects
            with a `name`, a `weight` and a method `rows(dataset, split, tokenizer)`, as in [`~data.Task`].
        weights (`dict[str, float]`, *optional*):
            How often the rows of each task occur: `2` twice, `0.1` a tenth of them, drawn by the seed. Where absent,
            the task's own weight, which is 1 for the built-in tasks. (A factor of the loss instead is
            `TSRecSFTConfig.task_weights`.)
        split (`str`, *optional*, defaults to `"train"`):
            Split whose interactions make the rows of `"sequence"` and `"history_title"`.
        sequence_mode (`str`, *optional*, defaults to `"session"`):
            Form of the rows of `"sequence"`, as in [`build_sequence_rows`].
        keywords (`bool`, *optional*, defaults to `False`):
            Whether `"alignment"` has rows of keywords, as in [`build_alignment_rows`].
        seed (`int`, *optional*, defaults to `42`):
            Seed of the draws and the order.
        max_text_tokens (`int`, *optional*, defaults to `256`):
            Number of tokens that every title, description and list of keywords is cut to, at a word. Half of the
            trainer's `max_length` leaves room for the rest of a row.
        targets_per_stretch (`int`, *optional*):
            Targets in each further session row of a long history, as in [`build_sequence_rows`]; defaults to as few as
            keep a row's tokens within twice those of its targets. Splits other than `"train"` have 1 by default.
        log (`Dataset`, *optional*):
            Interactions in the place of the split's, as many as there are: `user_id` and `item_id`, the rows of each
            user together, oldest first. The data set then gives the items.
        num_proc (`int`, *optional*):
            Processes that make the rows of many interactions.

    Returns:
        `Dataset` with `input_ids`, `labels` (`-100` on prompts) and `task`.

    Raises:
        `ValueError`: unknown names, two tasks of one name, histories or semantics that do not fit the tokenizer, rows
        without the right columns. `TypeError`: a task that is neither a name nor an object as above.

    Example:

    ```python
    >>> from collections import Counter
    >>> from tsrec_hf import build_sft_mixture

    >>> rows = build_sft_mixture(dataset, semantics, tokenizer, weights={"title": 0.5})
    >>> sorted(Counter(rows["task"]).items())
    [('alignment', 14), ('history_title', 6), ('sequence', 3), ('title', 8)]
    ```
    """
    if log is not None and not is_log(log):
        raise ValueError(
            f"Expected `log` with a row for each interaction, `user_id` and `item_id`, but found {log.column_names}. "
            "Next-item rows are splits of the data set: `dataclasses.replace(dataset, train=...)`."
        )
    sequence = SequenceTask(sequence_mode, targets_per_stretch, interactions=log, num_proc=num_proc)
    makers = _built_in_makers(semantics, sequence, keywords, max_text_tokens)
    mixed = [_as_task(task, makers) for task in tasks]
    weight_of = _checked_weights(mixed, weights or {})
    if split not in SPLITS:
        raise ValueError(f"Expected `split` among {SPLITS}, but found {split!r}. Choose one.")
    _check_max_history(dataset, tokenizer)
    for meanings in (semantics, *(task.semantics for task in mixed if isinstance(task, AlignmentTask))):
        if meanings is not None:
            meanings.check_index(tokenizer.sid_index)
    # Nobody but the task knows what its rows depend on, so that the rows themselves are the key of a user's task.
    own_rows = {
        task.name: _checked_rows(task, dataset, split, tokenizer) for task in mixed if type(task) not in BUILT_IN_TYPES
    }
    interactions = getattr(dataset, split) if log is None else log
    identity = (
        [tokenizer.prompt_version, PromptBuilder(tokenizer).sequence_instruction, tokenizer.eos_token],
        [_tokenizer_state(tokenizer), tokenizer.max_history, tokenizer.sid_index.fingerprint],
        hash_of_tables(InteractionReader(interactions, tokenizer.max_history).batches()),
        [dataset.items[name][:] for name in ("item_id", "title")],
        [hash_of_tables(_tables(own_rows[t.name])) if t.name in own_rows else _settings(t) for t in mixed],
        [list(weight_of.items()), seed, split],
    )

    def generate() -> Iterator[dict[str, Any]]:
        generator = np.random.default_rng(seed)
        num_rows = 0
        for task in mixed:
            if task.name in own_rows:
                given = own_rows[task.name]
            else:
                given = _checked_rows(task, dataset, split, tokenizer)
            numbers = _drawn(len(given), weight_of[task.name], generator)
            num_rows += len(numbers)
            for start in range(0, len(numbers), BATCH_SIZE):
                rows = given.select(numbers[start : start + BATCH_SIZE])
                yield from rows if "labels" in given.column_names else tokenize_rows(rows, tokenizer)
        if num_rows == 0:
            raise ValueError(
                f"The tasks {list(weight_of)} give no rows of {split!r} with the weights {weight_of}. Raise a weight."
            )

    return rows_on_disk(generate, ROW_FEATURES, identity).shuffle(seed=seed)


def _built_in_makers(
    semantics: TokenSemantics | None,
    sequence: SequenceTask,
    keywords: bool,
    max_text_tokens: int,
) -> dict[str, Callable[[], Task]]:
    def alignment() -> Task:
        if semantics is None:
            raise ValueError(
                "Expected `semantics` for the task 'alignment', but found None. Pass `TokenSemantics`, or leave the "
                "task out."
            )
        return AlignmentTask(semantics, keywords, max_text_tokens=max_text_tokens)

    return {
        "sequence": lambda: sequence,
        "title": lambda: TitleTask(max_text_tokens=max_text_tokens),
        "history_title": lambda: HistoryTitleTask(
            max_text_tokens=max_text_tokens, interactions=sequence.interactions, num_proc=sequence.num_proc
        ),
        "alignment": alignment,
    }


def _as_task(task: str | Task, makers: Mapping[str, Callable[[], Task]]) -> Task:
    if isinstance(task, str):
        if task not in makers:
            raise ValueError(
                f"Expected `tasks` among {BUILT_IN_TASKS}, or tasks of your own, but found {[task]}. Correct the "
                "name, or pass the task itself instead of its name."
            )
        return makers[task]()
    if isinstance(task, type) or not isinstance(task, Task) or not isinstance(task.name, str) or not task.name:
        raise TypeError(
            "Expected tasks as names, or as objects with a `name`, a `weight` and a method `rows(dataset, split, "
            f"tokenizer)`, but found {task!r}. Pass an object of your class with these three."
        )
    return task


def _checked_weights(tasks: Sequence[Task], weights: Mapping[str, float]) -> dict[str, float]:
    """The weight of every task by name, in the order of the tasks."""
    names = [task.name for task in tasks]
    repeated = [name for name, number in Counter(names).items() if number > 1]
    if repeated:
        raise ValueError(f"Expected tasks of different names, but found {repeated} more than once. Rename your task.")
    # Built-in tasks that are not mixed may have weights: the same ones then serve a mixture with fewer tasks.
    known = tuple(dict.fromkeys([*names, *BUILT_IN_TASKS]))
    unknown = set(weights) - set(known)
    if unknown:
        raise ValueError(
            f"Expected `weights` among {known}, but found {sorted(unknown)}. Add the task to `tasks`, or correct its "
            "name."
        )
    weight_of = {task.name: weights.get(task.name, task.weight) for task in tasks}
    if not tasks or not all(0 <= weight < float("inf") for weight in weight_of.values()):
        raise ValueError(
            f"Expected at least one task and finite weights of at least 0, but found {names} and {weight_of}. Leave a "
            "task out by weight 0."
        )
    return weight_of


def _check_max_history(dataset: RecommendationDataset, tokenizer: TSRecTokenizer) -> None:
    longest = dataset.max_history
    if longest is not None and longest != tokenizer.max_history:
        raise ValueError(
            f"Expected histories of at most {tokenizer.max_history} items, the tokenizer's `max_history`, but the "
            f"data set was split with `max_history={longest}`. Make the tokenizer with "
            f"`TSRecTokenizer.from_backbone(..., max_history={longest})`, or split again with "
            f"`max_history={tokenizer.max_history}`."
        )


def _tokenizer_state(tokenizer: TSRecTokenizer) -> str:
    """The tokenizer as JSON, without the padding and truncation that its last call left behind."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return json.dumps({name: value for name, value in state.items() if name not in ("padding", "truncation")})


def _settings(task: Task) -> list[Any]:
    """What decides the rows of a built-in task beside the data set and the tokenizer."""
    if isinstance(task, AlignmentTask):
        return [task.name, task.keywords, task.max_text_tokens, list(task.semantics.values())]
    if isinstance(task, SequenceTask):
        return [task.name, task.mode, task.targets_per_stretch, _own_interactions(task)]
    if isinstance(task, HistoryTitleTask):
        return [task.name, task.max_text_tokens, _own_interactions(task)]
    assert isinstance(task, TitleTask)
    return [task.name, task.max_text_tokens]


def _own_interactions(task: SequenceTask | HistoryTitleTask) -> str | None:
    if task.interactions is None:
        return None
    return hash_of_tables(InteractionReader(task.interactions, longest=1).batches())


def _tables(rows: Dataset) -> Iterator[pa.Table]:
    table = rows.with_format("arrow")
    yield from (table[start : start + BATCH_SIZE] for start in range(0, len(table), BATCH_SIZE))


def _checked_rows(task: Task, dataset: RecommendationDataset, split: str, tokenizer: TSRecTokenizer) -> Dataset:
    """The rows of a task in one of the two forms of a row, with the column `task` and no other columns."""
    rows = task.rows(dataset, split, tokenizer)
    columns = set(rows.column_names) if isinstance(rows, Dataset) else set()
    form = next((form for form in (["input_ids", "labels"], ["prompt", "completion"]) if set(form) <= columns), None)
    if form is None:
        found = sorted(columns) if isinstance(rows, Dataset) else f"`{type(rows).__name__}`"
        raise ValueError(
            f"Expected the task {task.name!r} to give a `datasets.Dataset` with the columns `prompt` and "
            f"`completion`, or `input_ids` and `labels`, but found {found}. Return one of the two, as `Task.rows` "
            "describes."
        )
    rows = rows.with_format(None).select_columns(form)
    if form[0] == "prompt" and not all(isinstance(text, str) for name in form for text in rows[name][:1]):
        raise ValueError(
            f"Expected prompts and completions of the task {task.name!r} as strings, but found {rows[0]}. Messages of "
            "a chat are no prompts here: write their text."
        )
    if form[1] == "labels":
        lengths = [pc.list_value_length(rows.with_format("arrow")[name][:]) for name in form]
        other = pc.index(pc.not_equal(*lengths), True).as_py()
        if other >= 0:
            raise ValueError(
                f"Expected `labels` as long as `input_ids` in the rows of the task {task.name!r}, but found "
                f"{lengths[1][other]} and {lengths[0][other]} in row {other}. Fill labels up with -100."
            )
    return rows.add_column("task", pa.repeat(task.name, len(rows)))


def _drawn(size: int, weight: float, generator: np.random.Generator) -> np.ndarray:
    """
    Row numbers such that every row occurs `weight` times on average: all of them per whole unit, and a draw for
    the rest.
    """
    whole, part = divmod(weight, 1.0)
    extra = generator.choice(size, size=round(part * size), replace=False)
    return np.concatenate([np.tile(np.arange(size), int(whole)), np.sort(extra)])
