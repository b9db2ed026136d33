"""
Item embeddings by sentence-transformers: text fields and images, weighted into one vector an item.

Every text and image is embedded on its own, so that its cached vector serves any weights and any other fields.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from tsrec_hf.models.checking_tsrec import checks_types

from .distinctness import warn_of_equal_vectors
from .encoder import CachedEncoder


if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer

    Items: TypeAlias = Dataset | Sequence[Mapping[str, Any]]

logger = logging.getLogger(__name__)

# Of one image: more unpacks to gigabytes, and encoders see some hundred pixels a side.
MOST_PIXELS = 100_000_000
DEFAULT_FIELDS = {"title": 1.0, "description": 0.5}


@checks_types
def embed_items(
    items: Items,
    model: SentenceTransformer | str,
    fields: Mapping[str, float] | None = None,
    image_column: str | None = None,
    image_weight: float = 1.0,
    image_model: SentenceTransformer | str | None = None,
    batch_size: int = 32,
    cache_dir: str | Path | None = None,
) -> np.ndarray:
    r"""
    Embed items: one vector an item, from its texts and, if there are any, its images.

    The text vector is the weighted mean of the fields' unit vectors, scaled back to unit length; empty fields are left
    out. With images, text and image vectors are concatenated, scaled so that the cosine of two items is the weighted
    mean of their texts' and their images' cosines. An item without an image (or without any text) has zeros in that
    part: the other part stays comparable.

    Warns where more than a tenth of the items nearly have the vector of a different text: the encoder may not know
    their language. Texts are truncated to the encoder's `max_seq_length`; how many were is logged.

    Args:
        items (`datasets.Dataset` or a sequence of dicts):
            One row an item.
        model (`SentenceTransformer` or `str`):
            Text encoder: any sentence-transformers model, or its Hub id or folder.
        fields (`Mapping[str, float]`, *optional*):
            Columns of text and their weights. Defaults to `title` with 1 and, where there is one, `description` with
            0.5. `{}` embeds images alone.
        image_column (`str`, *optional*):
            Column of images: PIL images (a `datasets` column of type `Image` gives these), file names, or bytes of
            image files. `None` for an item without one.
        image_weight (`float`, *optional*, defaults to `1.0`):
            Image weight relative to text.
        image_model (`SentenceTransformer` or `str`, *optional*):
            Image encoder, a CLIP-type model. Defaults to `model`.
        batch_size (`int`, *optional*, defaults to `32`):
            Texts or images in one forward pass.
        cache_dir (`str` or `Path`, *optional*):
            Folder that caches vectors, a file a model. Its vectors are used again, for equal texts of another
            catalogue as well as after a killed run. A model is identified by a hash of its weights and settings, a
            text or image by a hash of its content.

    Returns:
        `np.ndarray` of shape `(items, dim)`: float32 vectors in the order of `items`, of unit length where nothing is
        missing; `dim` is the text model's width plus, with images, the image model's.

    Raises:
        `ImportError`: sentence-transformers is not installed.
        `ValueError`: an unknown column, an item with neither text nor image, weights that are not positive, an image
        that cannot be read, a model that embeds no images.

    Example:

    ```python
    >>> from sentence_transformers import SentenceTransformer
    >>> from sentence_transformers.sentence_transformer.modules import BoW
    >>> from tsrec_hf.sids import embed_items

    >>> model = SentenceTransformer(modules=[BoW(["hammer", "steel", "nail"])], device="cpu")  # counts words
    >>> items = [{"title": "hammer", "description": "steel"}, {"title": "nail", "description": ""}]
    >>> embed_items(items, model, fields={"title": 3.0, "description": 4.0}).round(1)
    array([[0.6, 0.8, 0. ],
           [0. , 0. , 1. ]], dtype=float32)
    ```
    """
    columns = _columns_of(items)
    if fields is None:
        fields = {name: weight for name, weight in DEFAULT_FIELDS.items() if name == "title" or name in columns}
    _check_columns(columns, fields, image_column, image_weight)
    encoder = CachedEncoder(model, batch_size, cache_dir)
    parts, weights = [], []
    if fields:
        parts.append(_embed_fields(items, encoder, fields))
        weights.append(1.0)
    if image_column is not None:
        if image_model is not None and image_model is not model:  # else its weights need not be hashed again
            encoder = CachedEncoder(image_model, batch_size, cache_dir)
        parts.append(_embed_images(items, encoder, image_column))
        weights.append(image_weight)
    _check_nothing_is_empty(items, parts, fields, image_column)
    # The cosine of two rows is a sum over parts: each part's weight enters it by its square root, twice.
    scales = np.sqrt(np.array(weights) / sum(weights))
    vectors = np.concatenate([part * scale for part, scale in zip(parts, scales.astype(np.float32))], axis=1)
    if fields:
        warn_of_equal_vectors(vectors, texts_of(items, fields))
    return vectors


def texts_of(items: Items, fields: Iterable[str]) -> list[str]:
    """The texts of each item that [`embed_items`] embeds, joined by line breaks."""
    columns = [[_as_text(text, name) or "" for text in _column(items, name, 0, len(items))] for name in fields]
    return ["\n".join(texts) for texts in zip(*columns)]


def _columns_of(items: Items) -> list[str]:
    if len(items) == 0:
        raise ValueError("Expected at least one item, found none. Pass the rows of the catalogue.")
    if hasattr(items, "column_names"):
        return list(cast("Dataset", items).column_names)
    # Rows that come from JSON leave out what they have no value of.
    return list(dict.fromkeys(name for item in items for name in item))


def _check_columns(
    columns: list[str], fields: Mapping[str, float], image_column: str | None, image_weight: float
) -> None:
    if not fields and image_column is None:
        raise ValueError("Expected at least one field of text or an `image_column`, found neither. Name one.")
    missing = [name for name in (*fields, image_column) if name is not None and name not in columns]
    if missing:
        raise ValueError(
            f"Expected the items to have the columns {missing}, found {columns}. Name columns that are there by "
            "`fields` and `image_column`."
        )
    strange = {name: weight for name, weight in (*fields.items(), ("image_weight", image_weight)) if not weight > 0}
    if strange:
        raise ValueError(f"Expected positive weights, found {strange}. Leave out what should not count.")


def _column(items: Items, name: str, start: int, stop: int) -> list[Any]:
    # A slice of a data set decodes that slice only: a catalogue's images do not fit into memory.
    if hasattr(items, "column_names"):
        return cast("Dataset", items).select_columns([name])[start:stop][name]
    return [item.get(name) for item in items[start:stop]]


def _embed_fields(items: Items, encoder: CachedEncoder, fields: Mapping[str, float]) -> np.ndarray:
    """Average the fields' unit vectors by weight, at unit length; zeros where all fields are empty."""
    total = np.zeros((len(items), encoder.dim), dtype=np.float32)
    for name, weight in fields.items():
        texts = [_as_text(text, name) for text in _column(items, name, 0, len(items))]
        total += np.float32(weight) * encoder.encode([texts], len(texts), name)
    return _unit(total)


def _embed_images(items: Items, encoder: CachedEncoder, column: str) -> np.ndarray:
    """Unit vectors of the images, zeros for items without one."""
    if not encoder.model.supports("image"):
        raise ValueError(
            f"Expected a model that embeds images, found one for {encoder.model.modalities}. Pass a CLIP-type model, "
            "such as 'sentence-transformers/clip-ViT-B-32', as `image_model`."
        )

    def chunks() -> Iterator[list[Any]]:
        for start in range(0, len(items), encoder.stretch):
            rows = _column(items, column, start, start + encoder.stretch)
            yield [_as_image(image, start + row, column) for row, image in enumerate(rows)]

    return encoder.encode(chunks(), len(items), column)


def _as_text(text: Any, name: str) -> str | None:
    if text is None or isinstance(text, str):
        return (text or "").strip() or None
    raise TypeError(
        f"Expected texts in column {name!r}, found `{type(text).__name__}` ({text!r}). Convert the column, or name "
        "another one by `fields`."
    )


def _as_image(image: Any, row: int, column: str):
    """Convert an image, a file name or the bytes of a file to a PIL image in RGB; `None` stays `None`."""
    from PIL import Image

    if image is None or image == "":
        return None
    if isinstance(image, Mapping) and image.keys() >= {"bytes", "path"}:  # what `datasets` gives where decoding is off
        image = image["path"] if image["bytes"] is None else image["bytes"]
    try:
        if isinstance(image, (str, Path)):
            image = Image.open(image)
        elif isinstance(image, bytes):
            image = Image.open(io.BytesIO(image))
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise OSError(f"{width} x {height} pixels, of which {MOST_PIXELS:,} are read at most")
        return image.convert("RGB")
    except (OSError, AttributeError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"Expected an image, the name of an image file or its bytes in row {row} of column {column!r}, found "
            f"{repr(image)[:80]} ({error}). Put `None` where an item has no image; download images that have a URL."
        ) from error


def image_beside(folder: str | Path, name: str) -> str:
    """
    The path of an image that a catalogue names, in the catalogue's own folder.

    Raises:
        `ValueError`: a name that leads out of the folder.
    """
    path = Path(folder, name)
    if not path.resolve().is_relative_to(Path(folder).resolve()):
        raise ValueError(
            f"Expected names of images in {folder} or below, but found {name!r}, which leads elsewhere. Put the "
            "images beside the file of items."
        )
    return str(path)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _check_nothing_is_empty(
    items: Items,
    parts: list[np.ndarray],
    fields: Mapping[str, float],
    image_column: str | None,
) -> None:
    is_there = np.array([part.any(axis=1) for part in parts])  # (parts, items)
    empty = ~is_there.any(axis=0)
    if empty.any():
        row = int(empty.argmax())
        columns = [*fields, *([] if image_column is None else [image_column])]
        raise ValueError(
            f"Expected something to embed for every item, but {int(empty.sum())} have nothing in {columns}, first "
            f"row {row} ({items[row].get('item_id', 'no id')!r}). Drop these items or name further fields."
        )
    if image_column is not None and not is_there[-1].all():
        logger.warning(
            "%d of %d items have no image in %r: that part of their vectors is zero.",
            (~is_there[-1]).sum(),
            len(items),
            image_column,
        )
