"""`RecommendationDataset`: a catalogue, its splits and its SID index, as all other rooms use them."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from huggingface_hub import HfApi, snapshot_download

from tsrec_hf.models import SIDIndex
from tsrec_hf.models.checking_tsrec import checks_types

from .columns import checked_columns
from .dataset_card import build_dataset_card
from .layout import read_dataset, write_dataset


SPLITS = ("train", "valid", "test")
CARD_NAME = "README.md"


@dataclass(frozen=True, eq=False, repr=False)
class RecommendationDataset:
    r"""
    Holds a catalogue, three splits of next-item rows and, optionally, the SID index of the catalogue.

    The constructor checks columns and types, that item ids are unique, that the catalogue has every item of every row,
    and that the index covers exactly the catalogue. Tables are not copied.

    Args:
        items (`datasets.Dataset`):
            One row per item with at least the string columns `item_id` and `title`; usually `description` too.
        train (`datasets.Dataset`):
            One row per target with the columns `user_id` (string), `history` (list of item ids, oldest first) and
            `target` (item id).
        valid (`datasets.Dataset`):
            Rows of the same form, later in time than `train`.
        test (`datasets.Dataset`):
            Rows of the same form, later in time than `valid`.
        sid_index ([`SIDIndex`], *optional*):
            Semantic IDs of the items. An index without training counts gets those of `train`, by which items that
            share a SID are ranked.
        name (`str`, *optional*, defaults to `""`):
            Name that cards and logs show.
        max_history (`int`, *optional*):
            Length to which the splits truncated histories; `None` if they are not truncated.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from tsrec_hf import RecommendationDataset

    >>> items = Dataset.from_dict({"item_id": ["7", "8"], "title": ["Glue", "Tape"]})
    >>> rows = Dataset.from_dict({"user_id": ["u"], "history": [["7"]], "target": ["8"]})
    >>> RecommendationDataset(items, train=rows, valid=rows, test=rows, name="toy")
    RecommendationDataset(name='toy', items=2, train=1, valid=1, test=1, sid_index=None)
    ```
    """

    items: Dataset
    train: Dataset
    valid: Dataset
    test: Dataset
    sid_index: SIDIndex | None = None
    name: str = ""
    max_history: int | None = None

    def __post_init__(self) -> None:
        if self.max_history is not None and self.max_history < 1:
            raise ValueError(
                f"Expected `max_history` of at least 1, but found {self.max_history}. `None` says that histories are "
                "whole."
            )
        catalogue = checked_columns(self.items, "items", {"item_id": "a string", "title": "a string"})["item_id"]
        duplicated = pc.value_counts(catalogue)
        duplicated = duplicated.filter(pc.greater(duplicated.field("counts"), 1))
        if len(duplicated):
            raise ValueError(
                f"Expected every item id once in `items`, but {len(duplicated)} occur more than once, for example "
                f"{duplicated[0]['values'].as_py()!r} ({duplicated[0]['counts'].as_py()} rows). Keep one row per item."
            )
        for split in SPLITS:
            columns = {"user_id": "a string", "history": "a list of strings", "target": "a string"}
            table = checked_columns(getattr(self, split), split, columns)
            history = table["history"]
            _check_known(pc.list_flatten(history), pc.list_parent_indices(history), catalogue, split, "history")
            _check_known(table["target"], None, catalogue, split, "target")
            longest = pc.max(pc.list_value_length(history)).as_py() or 0
            if self.max_history is not None and longest > self.max_history:
                raise ValueError(
                    f"Expected histories of at most `max_history={self.max_history}` items, but `{split}` has one of "
                    f"{longest}. Pass the length that the splits were made with."
                )
        if self.sid_index is not None:
            _check_index(self.sid_index, catalogue)
            if self.sid_index.counts is None and len(self.train):
                # Items that share a SID are ranked by training counts, and only here the training rows are known.
                # `object.__setattr__` because the class is frozen.
                object.__setattr__(self, "sid_index", _with_training_counts(self.sid_index, self.train))

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}={len(getattr(self, name)):,}" for name in ("items", *SPLITS))
        index = self.sid_index and f"{len(self.sid_index):,} items on {self.sid_index.num_levels} levels"
        return f"{type(self).__name__}(name={self.name!r}, {counts}, sid_index={index})"

    @checks_types
    def save(self, directory: str | Path) -> Path:
        """
        Writes the data set to a folder: Parquet tables, the SID index and `dataset.json`, which is written last.

        A save that is interrupted leaves the old data set or the new one, and files of two are never mixed. Other
        files of the folder are kept.

        Args:
            directory (`str` or `Path`):
                The folder; it is created if missing.

        Returns:
            `Path`: The folder.

        Raises:
            `ValueError`: the folder holds a data set in MiniOneRec's layout.

        Example:

        ```python
        >>> import tempfile
        >>> from tsrec_hf import RecommendationDataset

        >>> folder = dataset.save(tempfile.mkdtemp())
        >>> RecommendationDataset.load(folder).sid_index == dataset.sid_index
        True
        ```
        """
        return write_dataset(self, Path(directory))

    @classmethod
    @checks_types
    def load(cls, directory: str | Path) -> "RecommendationDataset":
        """
        Reads a data set that [`RecommendationDataset.save`] wrote.

        Args:
            directory (`str` or `Path`):
                The folder.

        Raises:
            `FileNotFoundError`: no such folder, or one without `dataset.json`. `ValueError`: a file that is not the
            one that was saved with the others; the message names it.
        """
        return cls(**read_dataset(Path(directory)))

    @checks_types
    def push_to_hub(
        self, repo_id: str, private: bool | None = None, token: str | bool | None = None, **card_data: Any
    ) -> str:
        """
        Sends the data set to the Hub with a card, so that `load_dataset` reads its tables.

        Args:
            repo_id (`str`):
                The repository of type data set; it is made if missing.
            private (`bool`, *optional*):
                Whether a new repository is private.
            token (`str` or `bool`, *optional*):
                As everywhere in `huggingface_hub`.
            card_data (*optional*):
                Metadata of the card: `license`, `language`, ... A card that is there already stays as it is.

        Returns:
            `str`: Address of the commit.
        """
        api = HfApi(token=token)
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save(folder)
            if not api.file_exists(repo_id, CARD_NAME, repo_type="dataset"):
                build_dataset_card(self, repo_id, **card_data).save(Path(folder, CARD_NAME))
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=folder, repo_type="dataset", commit_message="Upload data set"
            )
        return str(commit.commit_url)

    @classmethod
    @checks_types
    def from_hub(
        cls, repo_id: str, revision: str | None = None, token: str | bool | None = None
    ) -> "RecommendationDataset":
        """
        Reads a data set that [`RecommendationDataset.push_to_hub`] sent.

        Args:
            repo_id (`str`):
                The repository.
            revision (`str`, *optional*):
                Branch, tag or commit.
            token (`str` or `bool`, *optional*):
                As everywhere in `huggingface_hub`.
        """
        return cls.load(snapshot_download(repo_id, repo_type="dataset", revision=revision, token=token))


def _with_training_counts(sid_index: SIDIndex, train: Dataset) -> SIDIndex:
    targets = checked_columns(train, "train", {"target": "a string"})["target"]
    positions = pc.index_in(targets, value_set=pa.array(sid_index.item_ids, pa.string())).to_numpy()
    return sid_index.with_counts(np.bincount(positions, minlength=len(sid_index)))


def _check_known(ids: pa.Array, rows: pa.Array | None, catalogue: pa.Array, split: str, column: str) -> None:
    unknown = pc.invert(pc.is_in(ids, value_set=catalogue))
    first = pc.index(unknown, True).as_py()
    if first < 0:
        return
    row = first if rows is None else rows[first].as_py()
    raise ValueError(
        f"Expected every item of the rows in `items`, but row {row} of `{split}` has {ids[first].as_py()!r} in "
        f"`{column}`, which is no item; {pc.sum(unknown).as_py()} entries of that column are unknown. Add the items "
        "or drop these rows."
    )


def _check_index(sid_index: SIDIndex, catalogue: pa.Array) -> None:
    catalogue, indexed = set(catalogue.to_pylist()), set(sid_index.item_ids)
    if catalogue == indexed:
        return
    without, stray = sorted(catalogue - indexed), sorted(indexed - catalogue)
    found = [f"{len(without)} items have no SID, for example {without[0]!r}"] if without else []
    found += [f"{len(stray)} items of the index are not in `items`, for example {stray[0]!r}"] if stray else []
    raise ValueError(
        f"Expected `sid_index` to hold exactly the items of `items`, but {' and '.join(found)}. Use the index that "
        "was built for this catalogue."
    )
