"""The SFT mixture: rows of all tasks, tokenised, sampled by weight and shuffled."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import Hasher

from tsrec_hf.items import RecommendationDataset
from tsrec_hf.items.dataset import SPLITS
from tsrec_hf.models import PROMPT_VERSION, PromptBuilder, TSRecTokenizer
from tsrec_hf.semantics import TokenSemantics

from .collator import BUILT_IN_TASKS
from .sequence import IGNORED, ROW_FEATURES, build_sequence_rows
from .text_tasks import build_alignment_rows, build_history_title_rows, build_title_rows


# Raised whenever a row builder changes, so that rows cached before are not taken for its own.
ROWS_VERSION = 1


def build_sft_mixture(
    dataset: RecommendationDataset,
    semantics: TokenSemantics | None,
    tokenizer: TSRecTokenizer,
    tasks: Sequence[str] = BUILT_IN_TASKS,
    weights: Mapping[str, float] | None = None,
    split: str = "train",
    sequence_mode: str = "session",
    keywords: bool = False,
    seed: int = 42,
) -> Dataset:
    r"""
    Builds the rows of several tasks as one shuffled data set, ready for [`TSRecSFTTrainer`].

    The result is cached on disk by `datasets`: the same arguments give the same rows without tokenising again.

    Args:
        dataset ([`RecommendationDataset`]):
            Items and interactions.
        semantics ([`TokenSemantics`]):
            Descriptions of the SID tokens; may be `None` without the task `"alignment"`.
        tokenizer ([`TSRecTokenizer`]):
            Tokenizer with the SID index.
        tasks (`Sequence[str]`, *optional*, defaults to all):
            Among `"sequence"`, `"title"`, `"history_title"` and `"alignment"`.
        weights (`dict[str, float]`, *optional*):
            How often each task's rows occur: `2` twice, `0.1` a tenth of them, drawn by the seed. 1 where absent. (A
            factor of the loss instead is `TSRecSFTConfig.task_weights`.)
        split (`str`, *optional*, defaults to `"train"`):
            Split whose interactions make the rows of `"sequence"` and `"history_title"`.
        sequence_mode (`str`, *optional*, defaults to `"session"`):
            As in [`build_sequence_rows`].
        keywords (`bool`, *optional*, defaults to `False`):
            As in [`build_alignment_rows`].
        seed (`int`, *optional*, defaults to `42`):
            Seed of the draws and the order.

    Returns:
        `Dataset` with `input_ids`, `labels` (`-100` on prompts) and `task`.

    Example:

    ```python
    >>> from collections import Counter
    >>> from tsrec_hf import build_sft_mixture

    >>> rows = build_sft_mixture(dataset, semantics, tokenizer, weights={"title": 0.5})
    >>> sorted(Counter(rows["task"]).items())
    [('alignment', 14), ('history_title', 6), ('sequence', 3), ('title', 8)]
    ```
    """
    weights = dict(weights or {})
    for name, found in (("tasks", tasks), ("weights", weights)):
        unknown = set(found) - set(BUILT_IN_TASKS)
        if unknown:
            raise ValueError(f"Expected `{name}` among {BUILT_IN_TASKS}, but found {sorted(unknown)}.")
    if not tasks or not all(0 <= weight < float("inf") for weight in weights.values()):
        raise ValueError(
            f"Expected at least one task and finite weights of at least 0, but found {list(tasks)} and {weights}."
        )
    if "alignment" in tasks and semantics is None:
        raise ValueError(
            "Expected `semantics` for the task 'alignment', but found None. Pass `TokenSemantics`, or leave the task "
            "out."
        )
    if split not in SPLITS:
        raise ValueError(f"Expected `split` among {SPLITS}, but found {split!r}.")
    interactions = getattr(dataset, split)
    identity = (
        [ROWS_VERSION, PROMPT_VERSION, PromptBuilder(tokenizer).sequence_instruction, tokenizer.eos_token],
        [_tokenizer_state(tokenizer), tokenizer.sid_index.fingerprint],
        [interactions[name][:] for name in ("user_id", "history", "target")],
        [dataset.items[name][:] for name in ("item_id", "title")],
        None if semantics is None else list(semantics.values()),
        [list(tasks), sorted(weights.items()), sequence_mode, keywords, seed],
    )

    def generate() -> Iterator[dict[str, Any]]:
        generator = np.random.default_rng(seed)
        num_rows = 0
        for task in tasks:
            rows = _task_rows(task, dataset, semantics, tokenizer, interactions, sequence_mode, keywords)
            numbers = _drawn(len(rows), weights.get(task, 1.0), generator)
            num_rows += len(numbers)
            for number in numbers:
                yield rows[number]
        if num_rows == 0:
            raise ValueError(
                f"The tasks {list(tasks)} give no rows of {split!r} with the weights {weights}. Raise a weight."
            )

    try:
        # The fingerprint names what decides the rows, so that an equal call finds them in the cache.
        rows = Dataset.from_generator(generate, features=ROW_FEATURES, fingerprint=Hasher.hash(identity))
    except DatasetGenerationError as error:
        # What the builders say would stand behind a message that says nothing.
        raise error.__cause__ from None
    return rows.shuffle(seed=seed)


def _tokenizer_state(tokenizer: TSRecTokenizer) -> str:
    """The tokenizer as JSON, without the padding and truncation that its last call left behind."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return json.dumps({name: value for name, value in state.items() if name not in ("padding", "truncation")})


def _task_rows(
    task: str,
    dataset: RecommendationDataset,
    semantics: TokenSemantics | None,
    tokenizer: TSRecTokenizer,
    interactions: Dataset,
    sequence_mode: str,
    keywords: bool,
) -> list[dict[str, Any]]:
    if task == "sequence":
        return build_sequence_rows(interactions, tokenizer, mode=sequence_mode).to_list()
    if task == "title":
        rows = build_title_rows(dataset.items, tokenizer)
    elif task == "history_title":
        rows = build_history_title_rows(interactions, dataset.items, tokenizer)
    else:
        rows = build_alignment_rows(semantics, tokenizer, keywords=keywords)
    return tokenize_rows(rows, tokenizer)


def tokenize_rows(rows: Dataset, tokenizer: TSRecTokenizer) -> list[dict[str, Any]]:
    """
    Tokenises rows of `prompt`, `completion` and `task`; labels stand on the completion alone.

    Prompt and completion are tokenised together, since a completion alone may be cut differently; it begins where the
    tokens of the whole leave those of the prompt.
    """
    if len(rows) == 0:
        return []
    prompts = tokenizer(rows["prompt"][:], add_special_tokens=False).input_ids
    wholes = tokenizer(
        [prompt + completion for prompt, completion in zip(rows["prompt"], rows["completion"])],
        add_special_tokens=False,
    ).input_ids
    tokenized = []
    for prompt, whole, task in zip(prompts, wholes, rows["task"]):
        start = next((at for at, (left, right) in enumerate(zip(prompt, whole)) if left != right), len(prompt))
        tokenized.append({"input_ids": whole, "labels": [IGNORED] * start + whole[start:], "task": task})
    return tokenized


def _drawn(size: int, weight: float, generator: np.random.Generator) -> np.ndarray:
    """
    Row numbers such that every row occurs `weight` times on average: all of them per whole unit, and a draw for
    the rest.
    """
    whole, part = divmod(weight, 1.0)
    extra = generator.choice(size, size=round(part * size), replace=False)
    return np.concatenate([np.tile(np.arange(size), int(whole)), np.sort(extra)])
