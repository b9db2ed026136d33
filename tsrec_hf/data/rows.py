"""The two forms of a training row: text (`prompt`, `completion`) and tokens (`input_ids`, `labels`)."""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset, Features, List, Value
from transformers import PreTrainedTokenizerBase


# Label of tokens without a loss.
IGNORED = -100
ROW_FEATURES = Features({"input_ids": List(Value("int32")), "labels": List(Value("int32")), "task": Value("string")})


def text_rows(rows: Sequence[tuple[str, str]], task: str) -> Dataset:
    """Pairs of prompt and completion as a `Dataset` with the columns `prompt`, `completion` and `task`."""
    prompts, completions = zip(*rows) if rows else ((), ())
    return Dataset.from_dict({"prompt": prompts, "completion": completions, "task": [task] * len(rows)})


def tokenize_rows(rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """
    Tokenises rows of `prompt`, `completion` and `task`; labels stand on the completion alone.

    Prompt and completion are tokenised together, because a completion on its own may be split into other tokens. It
    begins where the tokens of prompt and completion first differ from those of the prompt.
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


def check_columns(rows: Dataset, columns: Sequence[str], name: str, advice: str) -> None:
    """Raise `ValueError` where `rows`, called `name` in the message, lacks one of `columns`."""
    missing = set(columns) - set(rows.column_names)
    if missing:
        raise ValueError(
            f"Expected {name} with the columns {list(columns)}, but {sorted(missing)} are missing from "
            f"{rows.column_names}. {advice}"
        )
