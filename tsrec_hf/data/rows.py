"""The two forms of a training row: text (`prompt`, `completion`) and tokens (`input_ids`, `labels`)."""

import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, List, Value
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerBase


# Label of tokens without a loss.
IGNORED = -100
ROW_FEATURES = Features({"input_ids": List(Value("int32")), "labels": List(Value("int32")), "task": Value("string")})
TEXT_FEATURES = Features({name: Value("string") for name in ("prompt", "completion", "task")})
# Raised whenever a row builder changes, so that rows cached before are not taken for its own.
ROWS_VERSION = 4

Piece = tuple[int, int]


def text_rows(rows: Iterable[tuple[str, str]], task: str) -> Dataset:
    """Pairs of prompt and completion as a `Dataset` with the columns `prompt`, `completion` and `task`."""
    pairs = list(rows)
    prompts, completions = zip(*pairs) if pairs else ((), ())
    columns = {"prompt": prompts, "completion": completions, "task": [task] * len(pairs)}
    return Dataset.from_dict(columns, features=TEXT_FEATURES)


def count_tasks(rows: Dataset) -> dict[str, int]:
    """How many rows each task has, in the order of their first rows; counted in Arrow, whatever format is set."""
    counts = rows.select_columns(["task"]).with_format("arrow")[:]["task"].value_counts()
    return {entry["values"]: entry["counts"] for entry in counts.to_pylist()}


def longest_row(rows: Dataset) -> int:
    """The most tokens of a row; counted in Arrow."""
    column = rows.select_columns(["input_ids"]).with_format("arrow")[:]["input_ids"]
    return pc.max(pc.list_value_length(column)).as_py() or 0


def rows_in_memory(rows: Iterable[dict[str, Any]], features: Features) -> Dataset:
    """Rows as a `Dataset` in memory."""
    made = list(rows)
    return Dataset.from_dict({name: [row[name] for row in made] for name in features}, features=features)


def rows_on_disk(
    generate: Callable[..., Iterator[dict[str, Any]]],
    features: Features,
    identity: Any = None,
    pieces: list[Piece] | None = None,
    num_proc: int | None = None,
) -> Dataset:
    """
    Rows as a `Dataset` on disk, in the cache of `datasets`, written as they are generated.

    Args:
        generate (`Callable`):
            Yields the rows; of `pieces`, where these are given.
        features (`Features`):
            Their columns.
        identity (*optional*):
            What decides the rows: an equal one finds them in the cache. Without it they are made at every call.
        pieces (`list[tuple[int, int]]`, *optional*):
            What the rows are made of, shared among the processes.
        num_proc (`int`, *optional*):
            Processes; no more than there are pieces.
    """
    fingerprint = uuid.uuid4().hex if identity is None else Hasher.hash((ROWS_VERSION, identity))
    shared: dict[str, Any] = {} if pieces is None else {"gen_kwargs": {"pieces": pieces}}
    if num_proc is not None and pieces is not None:
        shared["num_proc"] = max(1, min(num_proc, len(pieces)))
    try:
        rows = Dataset.from_generator(generate, features=features, fingerprint=fingerprint, **shared)
    except DatasetGenerationError as error:
        # `datasets` wraps what the builders raise in an error that says nothing.
        raise (error.__cause__ or error) from None
    assert isinstance(rows, Dataset)  # not streamed
    return rows


def hash_of_tables(tables: Iterable[pa.Table]) -> str:
    """Hash of the contents of tables, read one after another."""
    digest = hashlib.blake2b(digest_size=16)
    for table in tables:
        digest.update(json.dumps([[field.name, str(field.type)] for field in table.schema]).encode())
        for batch in table.combine_chunks().to_batches():
            # The form of a message: without what a slice leaves out of its buffers.
            digest.update(batch.serialize())
    return digest.hexdigest()


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


def check_columns(found: Sequence[str], columns: Sequence[str], name: str, advice: str) -> None:
    """Raise `ValueError` where a table, called `name` in the message, lacks one of `columns`."""
    missing = set(columns) - set(found)
    if missing:
        raise ValueError(
            f"Expected {name} with the columns {list(columns)}, but {sorted(missing)} are missing from "
            f"{list(found)}. {advice}"
        )
