"""
Training rows that come as a stream: `datasets.IterableDataset`.

A stream is read again whenever it ends, so that the trainer sees one pass without end, of `max_steps` steps. That a
run which goes on skips as many batches as were trained on, and nothing else, then holds behind the first pass too; and
processes whose shares are of different size never wait for each other.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

import torch
from accelerate.data_loader import IterableDatasetShard
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader, get_worker_info
from transformers import TrainingArguments

from tsrec_hf.data.length import RowShortener
from tsrec_hf.data.rows import IGNORED
from tsrec_hf.models import TSRecTokenizer


logger = logging.getLogger(__name__)

# Rows that a stream is judged by.
NUM_LOOKED_AT = 64


class RepeatedRows(torch.utils.data.IterableDataset):
    r"""
    The share of one process of a stream, from the start again whenever it ends, in another order if it is shuffled.

    Where the stream has as many shards (files) as processes, or a multiple, each process reads its own; otherwise it
    reads all of them and leaves out the rows of the others.

    Args:
        rows (`datasets.IterableDataset`):
            The stream.
        rank (`int`, *optional*, defaults to `0`):
            Number of this process.
        world_size (`int`, *optional*, defaults to `1`):
            Number of processes.

    Example:

    ```python
    >>> from itertools import islice
    >>> from datasets import Dataset
    >>> from tsrec_hf.trainers.row_stream import RepeatedRows

    >>> stream = Dataset.from_dict({"number": [0, 1, 2]}).to_iterable_dataset()
    >>> [row["number"] for row in islice(RepeatedRows(stream, rank=1, world_size=2), 3)]
    [1, 1, 1]
    ```
    """

    def __init__(self, rows: IterableDataset, rank: int = 0, world_size: int = 1):
        self.rows = split_dataset_by_node(rows, rank, world_size) if world_size > 1 else rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        number_of_pass = 0
        while True:
            self.rows.set_epoch(number_of_pass)
            row = None
            for row in self.rows:
                yield row
            if row is None:
                if get_worker_info() is None:
                    raise ValueError(
                        "Expected a stream with rows for each process, but this one's share has none. Give it more "
                        "rows, or use fewer processes."
                    )
                return  # more workers of the loader than shards
            number_of_pass += 1


def repeated_loader(rows: IterableDataset, args: TrainingArguments, load: Callable[[Any], DataLoader]) -> DataLoader:
    """The loader that `load` makes of a stream, which is divided among the processes once, and here."""
    loader = load(RepeatedRows(rows, args.process_index, args.world_size))
    if isinstance(loader.dataset, IterableDatasetShard):
        # Accelerate would divide each process's share among all of them again.
        loader.dataset.num_processes, loader.dataset.process_index = 1, 0
    return loader


def check_stream(rows: IterableDataset, args: TrainingArguments) -> None:
    """
    Raises `ValueError` for a stream that cannot be trained on, without steps, rows or labels, and for one that is to
    be shuffled here; warns of settings that act at its end.
    """
    if args.max_steps <= 0:
        raise ValueError(
            "Expected `max_steps`, since nobody knows how many rows a stream has, but found "
            f"max_steps={args.max_steps}. Set it to the steps to train, rows x passes / "
            f"{args.train_batch_size * args.gradient_accumulation_steps * args.world_size} (the rows of a step), or "
            "pass a `datasets.Dataset`, such as `build_sequence_rows` writes to disk."
        )
    for name in ("eval_strategy", "save_strategy", "logging_strategy"):
        if getattr(args, name) == "epoch":
            logger.warning(
                f'A stream is one epoch of max_steps={args.max_steps}: {name}="epoch" acts once, at the end. Set '
                f'{name}="steps" and `{name.partition("_")[0]}_steps` for more.'
            )
    if getattr(args, "shuffle_dataset", False):
        raise ValueError(
            "Expected a stream in the order in which it is to be read, but found shuffle_dataset=True, which needs "
            "rows that can be counted. Shuffle the stream: `rows.shuffle(seed=0, buffer_size=10_000)`."
        )
    first = list(islice(rows, NUM_LOOKED_AT))
    if not first:
        raise ValueError("Expected a stream of training rows, but it has none. Look at the files that it reads.")
    if not all({"input_ids", "labels"} <= row.keys() for row in first):
        raise ValueError(
            "Expected a stream of tokenised rows (`input_ids`, `labels`, `task`), but found the columns "
            f"{list(first[0])}. Stream what `build_sequence_rows` or `build_sft_mixture` made: "
            "`rows.to_iterable_dataset()`, or Parquet files of it."
        )
    if all(label == IGNORED for row in first for label in row["labels"]):
        raise ValueError(
            f"Expected rows with labels, but every label of the first {len(first)} rows of the stream is {IGNORED}, "
            "which no loss counts. Build the rows with `build_sequence_rows` or `build_sft_mixture`."
        )


def shortened(rows: IterableDataset, tokenizer: TSRecTokenizer, max_length: int) -> IterableDataset:
    """A stream whose rows lose their oldest items where they are longer than `max_length`."""
    shortener = RowShortener(tokenizer, max_length)
    return rows.map(partial(_shortened, shortener=shortener), features=rows.features)


def _shortened(row: Mapping[str, Any], shortener: RowShortener) -> dict[str, Any]:
    return shortener(row, "a row of the stream")[0] if len(row["input_ids"]) > shortener.max_length else {}
