"""
Callables that take a batch of columns and give one: for `map_batches` of Ray Data and `map` of `datasets`.

They hold names and settings, so that they are small to send to an actor, and load their model there with the first
batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import torch

from tsrec_hf.hub import load_recommender
from tsrec_hf.models.checking_tsrec import checks_types
from tsrec_hf.sids import Quantizer, ResidualKMeans, embed_items

from .vectors import as_lists, as_vectors


# Columns by name: lists, NumPy arrays or Arrow's.
Batch: TypeAlias = Mapping[str, Any] | pa.Table


class BatchCallable(ABC):
    """
    Base of the callables: columns in, columns out, in the form that they came in.

    Args:
        keep (`Sequence[str]`):
            Columns that the result has as well.
    """

    # What is loaded with the first batch, and stays behind where the callable is sent on.
    _loaded: Any = None

    def __init__(self, keep: Sequence[str]):
        self.keep = [keep] if isinstance(keep, str) else list(keep)

    @abstractmethod
    def load(self) -> Any:
        """What the batches need: a model."""

    @abstractmethod
    def run(self, table: pa.Table, loaded: Any) -> Mapping[str, pa.Array]:
        """The columns made of a batch."""

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """Columns that are read."""

    def __call__(self, batch: Batch) -> Any:
        found = batch.column_names if isinstance(batch, pa.Table) else list(batch)
        missing = [name for name in (*self.columns, *self.keep) if name not in found]
        if missing:
            raise ValueError(
                f"Expected a batch with the columns {list(dict.fromkeys([*self.columns, *self.keep]))}, but {missing} "
                f"are missing from {found}. Name those that are there as arguments of `{type(self).__name__}`."
            )
        names = list(dict.fromkeys([*self.columns, *self.keep]))
        table = pa.table({name: _as_arrow(batch[name]) for name in names})
        if self._loaded is None:
            self._loaded = self.load()
        made = self.run(table, self._loaded) if len(table) else {}
        result = pa.table({**{name: table[name] for name in self.keep}, **made})
        return (
            result if isinstance(batch, pa.Table) else {name: result[name].to_pylist() for name in result.schema.names}
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_loaded"}


class RecommendBatch(BatchCallable):
    r"""
    Recommends for a batch of histories.

    Args:
        name_or_path (`str` or `Path`):
            Folder or Hub id of a recommender or an adapter.
        history (`str`, *optional*, defaults to `"history"`):
            Column of the histories: lists of item ids, oldest first.
        keep (`Sequence[str]`, *optional*, defaults to `("user_id",)`):
            Columns that the result has as well.
        of_users (`Mapping[str, str]`, *optional*):
            Arguments of `recommend` that every user has a value of, and the columns of these:
            `{"exclude_items": "returned"}`.
        device (`str`, *optional*):
            Defaults to the accelerator, where there is one.
        dtype (`str`, *optional*, defaults to `"float32"`):
            Type of the weights.
        options (*optional*):
            Arguments of [`TSRecForCausalLM.recommend`]: `top_k`, `num_beams`, `allowed_items`, `exclude_history`,
            `prior`, ...

    Returns:
        The kept columns, `items` (item ids, best first) and `scores`: Arrow where the batch is a table, lists
        otherwise.

    Example:

    ```python
    >>> import tempfile
    >>> from datasets import Dataset
    >>> from tsrec_hf.serving import RecommendBatch

    >>> folder = tempfile.mkdtemp()
    >>> model.save_pretrained(folder), tokenizer.save_pretrained(folder)
    (...)
    >>> users = Dataset.from_dict({"user_id": ["ann", "bob"], "history": [["hammer"], ["apple", "pear"]]})
    >>> rows = users.map(RecommendBatch(folder, top_k=3), batched=True, remove_columns="history")
    >>> rows.column_names, len(rows[0]["items"])
    (['user_id', 'items', 'scores'], 3)
    ```
    """

    @checks_types
    def __init__(
        self,
        name_or_path: str | Path,
        history: str = "history",
        keep: Sequence[str] = ("user_id",),
        of_users: Mapping[str, str] | None = None,
        device: str | None = None,
        dtype: str = "float32",
        **options: Any,
    ):
        super().__init__(keep)
        self.name_or_path, self.history, self.of_users = str(name_or_path), history, dict(of_users or {})
        self.device, self.dtype, self.options = device, dtype, options

    @property
    def columns(self) -> list[str]:
        return [self.history, *self.of_users.values()]

    def load(self) -> Any:
        model, tokenizer = load_recommender(self.name_or_path, dtype=self.dtype)
        model.to(device=self.device or default_device())  # type: ignore[call-arg]  # a wrapped method
        return model.eval(), tokenizer

    def run(self, table: pa.Table, loaded: Any) -> Mapping[str, pa.Array]:
        model, tokenizer = loaded
        own = {argument: table[column].to_pylist() for argument, column in self.of_users.items()}
        lists = model.recommend(tokenizer, table[self.history].to_pylist(), **self.options, **own)
        return {
            "items": pa.array([[item.item_id for item in one] for one in lists], pa.list_(pa.string())),
            "scores": pa.array([[item.score for item in one] for one in lists], pa.list_(pa.float32())),
        }


class EmbedBatch(BatchCallable):
    r"""
    Embeds a batch of items.

    Args:
        model (`str`):
            Folder or Hub id of a sentence-transformers model.
        fields (`Mapping[str, float]`, *optional*):
            Columns of text and their weights. Defaults to `title` alone.
        keep (`Sequence[str]`, *optional*, defaults to `("item_id",)`):
            Columns that the result has as well.
        device (`str`, *optional*):
            Defaults to the accelerator, where there is one.
        options (*optional*):
            Arguments of [`embed_items`]: `batch_size`, `image_column`, ...

    Returns:
        The kept columns and `embedding`, lists of float32.

    Example:

    ```python
    >>> from tsrec_hf.serving import EmbedBatch

    >>> embed = EmbedBatch("sentence-transformers/all-MiniLM-L6-v2", fields={"title": 1.0, "description": 0.5})
    >>> embed.columns
    ['title', 'description']
    ```
    """

    @checks_types
    def __init__(
        self,
        model: str | Path,
        fields: Mapping[str, float] | None = None,
        keep: Sequence[str] = ("item_id",),
        device: str | None = None,
        **options: Any,
    ):
        super().__init__(keep)
        self.model, self.fields = str(model), dict(fields if fields is not None else {"title": 1.0})
        self.device, self.options = device, options

    @property
    def columns(self) -> list[str]:
        image = self.options.get("image_column")
        return [*self.fields, *([] if image is None else [image])]

    def load(self) -> Any:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ImportError(
                "`EmbedBatch` needs sentence-transformers, which is not installed. Install it with "
                '`pip install "tsrec_hf[sids]"`.'
            ) from error
        return SentenceTransformer(self.model, device=self.device or default_device())

    def run(self, table: pa.Table, loaded: Any) -> Mapping[str, pa.Array]:
        vectors = embed_items(table.to_pylist(), loaded, fields=self.fields, **self.options)
        return {"embedding": as_lists(vectors)}


class EncodeBatch(BatchCallable):
    r"""
    Codes a batch of embeddings with a fitted quantiser. Items may share all their codes: [`resolve_collisions`] parts
    them.

    Args:
        directory (`str` or `Path`):
            Folder that the quantiser was saved to.
        kind (`type`, *optional*, defaults to [`ResidualKMeans`]):
            Its class.
        embedding (`str`, *optional*, defaults to `"embedding"`):
            Column of the vectors.
        keep (`Sequence[str]`, *optional*, defaults to `("item_id",)`):
            Columns that the result has as well.

    Returns:
        The kept columns and `codes`, lists of int32.

    Example:

    ```python
    >>> import tempfile
    >>> import numpy as np
    >>> from tsrec_hf import ResidualKMeans
    >>> from tsrec_hf.serving import EncodeBatch

    >>> folder = tempfile.mkdtemp()
    >>> quantizer = ResidualKMeans([2]).fit(np.array([[0.0], [2.0], [10.0], [12.0]]))
    >>> quantizer.save(folder)
    >>> made = EncodeBatch(folder)({"item_id": ["nut", "saw"], "embedding": np.array([[1.0], [11.0]])})
    >>> made["codes"] == quantizer.encode(np.array([[1.0], [11.0]])).tolist()
    True
    ```
    """

    @checks_types
    def __init__(
        self,
        directory: str | Path,
        kind: type[Quantizer] = ResidualKMeans,
        embedding: str = "embedding",
        keep: Sequence[str] = ("item_id",),
    ):
        super().__init__(keep)
        self.directory, self.kind, self.embedding = str(directory), kind, embedding

    @property
    def columns(self) -> list[str]:
        return [self.embedding]

    def load(self) -> Quantizer:
        return self.kind.load(self.directory)

    def run(self, table: pa.Table, loaded: Quantizer) -> Mapping[str, pa.Array]:
        return {"codes": as_lists(loaded.encode(as_vectors(table[self.embedding])))}


def default_device() -> str:
    """The accelerator, where there is one."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return "cpu" if found is None else found.type


def _as_arrow(column: Any) -> pa.Array | pa.ChunkedArray:
    if isinstance(column, np.ndarray) and (column.ndim > 1 or column.dtype == object):
        return pa.array([value.tolist() if isinstance(value, np.ndarray) else value for value in column])
    return column if isinstance(column, (pa.Array, pa.ChunkedArray)) else pa.array(column)
