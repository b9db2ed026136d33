"""
Item embeddings by sentence-transformers: several fields of text, and images, weighted into one vector an item.

Every text and image is embedded alone, so that the cache can keep it whatever the weights and the other fields are.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.utils.logging import tqdm

from .embedding_cache import EmbeddingCache


if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

DEFAULT_FIELDS = {"title": 1.0, "description": 0.5}
BATCHES_BETWEEN_WRITES = 4


def embed_items(
    items: Dataset | Sequence[Mapping[str, Any]],
    model: SentenceTransformer | str,
    fields: Mapping[str, float] | None = None,
    image_column: str | None = None,
    image_weight: float = 1.0,
    image_model: SentenceTransformer | str | None = None,
    batch_size: int = 32,
    cache_dir: str | Path | None = None,
) -> np.ndarray:
    r"""
    One vector an item, from its texts and, if there are any, its images.

    The text vector is the weighted mean of the fields' unit vectors, scaled back to unit length; empty fields are left
    out. With images, text and image vectors stand side by side, scaled so that the cosine of two items is the weighted
    mean of their texts' and their images' cosines. An item without an image (or without any text) has zeros in that
    part: the other part stays comparable.

    Args:
        items (`datasets.Dataset` or a sequence of dicts):
            One row an item.
        model (`SentenceTransformer` or `str`):
            Model of the texts: any sentence-transformers model, or its Hub id or folder.
        fields (`Mapping[str, float]`, *optional*):
            Columns of text and their weights. Defaults to `title` with 1 and, where there is one, `description` with
            0.5. `{}` embeds images alone.
        image_column (`str`, *optional*):
            Column of images: PIL images (a `datasets` column of type `Image` gives these), file names, or bytes of
            image files. `None` for an item without one.
        image_weight (`float`, *optional*, defaults to `1.0`):
            What images count against texts, which count 1.
        image_model (`SentenceTransformer` or `str`, *optional*):
            CLIP-type model of the images. Defaults to `model`.
        batch_size (`int`, *optional*, defaults to `32`):
            Texts or images in one forward pass.
        cache_dir (`str` or `Path`, *optional*):
            Folder of vectors that are there already, a file a model. What is in it is not embedded again: neither
            equal texts of another catalogue, nor what a killed run had done. A model is known by its weights and
            settings, a text or image by its content.

    Returns:
        `np.ndarray` of shape `(items, dim)`: float32 vectors in the order of `items`, of unit length where nothing is
        missing; `dim` is the text model's width plus, with images, the image model's.

    Raises:
        `ImportError`: sentence-transformers is not installed.
        `ValueError`: an unknown column, an item with neither text nor image, weights that are not positive, an image
        that cannot be read, a model that knows no images.

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
    model = _as_model(model)
    parts, weights = [], []
    if fields:
        parts.append(_embed_fields(items, model, fields, batch_size, cache_dir))
        weights.append(1.0)
    if image_column is not None:
        image_model = model if image_model is None else _as_model(image_model)
        parts.append(_embed_images(items, image_model, image_column, batch_size, cache_dir))
        weights.append(image_weight)
    _check_nothing_is_empty(items, parts, fields, image_column)
    # The cosine of two rows is a sum over parts: each part's weight enters it by its square root, twice.
    scales = np.sqrt(np.array(weights) / sum(weights))
    return np.concatenate([part * scale for part, scale in zip(parts, scales.astype(np.float32))], axis=1)


def _columns_of(items: Dataset | Sequence[Mapping[str, Any]]) -> list[str]:
    if len(items) == 0:
        raise ValueError("Expected at least one item, found none. Pass the rows of the catalogue.")
    return list(items.column_names if hasattr(items, "column_names") else items[0])


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


def _as_model(model: SentenceTransformer | str) -> SentenceTransformer:
    if not isinstance(model, str):
        return model
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError(
            "`embed_items` needs sentence-transformers, which is not installed. Install it with "
            '`pip install "tsrec_hf[sids]"`.'
        ) from error
    return SentenceTransformer(model)


def _column(items: Dataset | Sequence[Mapping[str, Any]], name: str, start: int, stop: int) -> list[Any]:
    # A slice of a data set decodes that slice only: a catalogue's images do not fit into memory.
    if hasattr(items, "column_names"):
        return items.select_columns([name])[start:stop][name]
    return [item.get(name) for item in items[start:stop]]


def _embed_fields(
    items: Dataset | Sequence[Mapping[str, Any]],
    model: SentenceTransformer,
    fields: Mapping[str, float],
    batch_size: int,
    cache_dir: str | Path | None,
) -> np.ndarray:
    """Weighted mean of the fields' unit vectors at unit length, zeros where all fields are empty."""
    total = np.zeros((len(items), model.get_embedding_dimension()), dtype=np.float32)
    for name, weight in fields.items():
        texts = [_as_text(text, name) for text in _column(items, name, 0, len(items))]
        encoded = _encode(model, iter([texts]), len(texts), _text_key, name, batch_size, cache_dir)
        total += np.float32(weight) * encoded
    return _unit(total)


def _embed_images(
    items: Dataset | Sequence[Mapping[str, Any]],
    model: SentenceTransformer,
    column: str,
    batch_size: int,
    cache_dir: str | Path | None,
) -> np.ndarray:
    """Unit vectors of the images, zeros where there is none."""
    if not model.supports("image"):
        raise ValueError(
            f"Expected a model that embeds images, found one for {model.modalities}. Pass a CLIP-type model, such as "
            "'sentence-transformers/clip-ViT-B-32', as `image_model`."
        )
    step = batch_size * BATCHES_BETWEEN_WRITES

    def chunks() -> Iterator[list[Any]]:
        for start in range(0, len(items), step):
            rows = _column(items, column, start, start + step)
            yield [_as_image(image, start + row, column) for row, image in enumerate(rows)]

    return _encode(model, chunks(), len(items), _image_key, column, batch_size, cache_dir)


def _encode(
    model: SentenceTransformer,
    chunks: Iterator[list[Any]],
    num_items: int,
    key_of: Callable[[Any], bytes],
    name: str,
    batch_size: int,
    cache_dir: str | Path | None,
) -> np.ndarray:
    """Unit vectors of texts or images that come in chunks, zeros for `None`; equal ones are embedded once."""
    dim = model.get_embedding_dimension()
    cache = None if cache_dir is None else EmbeddingCache(Path(cache_dir, f"{_identity(model)}.vectors"), dim)
    made: dict[bytes, np.ndarray] = {}
    keys: list[bytes | None] = []
    with tqdm(total=num_items, desc=f"Embedding {name}", unit="item") as progress:
        for chunk in chunks:
            chunk_keys = [None if content is None else key_of(content) for content in chunk]
            wanted = {key: content for key, content in zip(chunk_keys, chunk) if key is not None and key not in made}
            if cache is not None:
                made |= {key: cache.get(key) for key in wanted if key in cache}
                wanted = {key: content for key, content in wanted.items() if key not in cache}
            # Rows that need no work are done at once, so that the bar's speed is that of the model.
            progress.update(len(chunk) - len(wanted))
            # Texts of like length share a batch, also across the stretches after which the file is written.
            todo = sorted(wanted, key=lambda key: -len(wanted[key]) if isinstance(wanted[key], str) else 0)
            step = batch_size * BATCHES_BETWEEN_WRITES
            for start in range(0, len(todo), step):
                stretch = todo[start : start + step]
                vectors = model.encode(
                    [wanted[key] for key in stretch],
                    batch_size=batch_size,
                    show_progress_bar=False,
                    convert_to_numpy=True,
                    normalize_embeddings=True,
                )
                vectors = np.asarray(vectors, dtype=np.float32)
                _check_vectors(vectors, [wanted[key] for key in stretch], name)
                if cache is not None:
                    cache.add(stretch, vectors)
                made |= zip(stretch, vectors)
                progress.update(len(stretch))
            keys += chunk_keys
    nothing = np.zeros(dim, dtype=np.float32)
    return np.stack([nothing if key is None else made[key] for key in keys])


def _check_vectors(vectors: np.ndarray, contents: list[Any], name: str) -> None:
    # Half precision that overflows, and models that know no word of a text.
    bad = ~(np.abs(np.linalg.norm(vectors, axis=1) - 1) < 1e-2)
    if bad.any():
        content = contents[int(bad.argmax())]
        raise ValueError(
            f"Expected a finite vector other than zero for every entry of {name!r}, but the model gave none for "
            f"{int(bad.sum())} of them, for example {repr(content)[:80]}. Load the model in float32, or leave such "
            "texts empty."
        )


def _as_text(text: Any, name: str) -> str | None:
    if text is None or isinstance(text, str):
        return (text or "").strip() or None
    raise TypeError(
        f"Expected texts in column {name!r}, found `{type(text).__name__}` ({text!r}). Convert the column, or name "
        "another one by `fields`."
    )


def _as_image(image: Any, row: int, column: str):
    """A PIL image in RGB of an image, a file name or the bytes of a file; `None` stays `None`."""
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
        return image.convert("RGB")
    except (OSError, AttributeError) as error:
        raise ValueError(
            f"Expected an image, the name of an image file or its bytes in row {row} of column {column!r}, found "
            f"{repr(image)[:80]} ({error}). Put `None` where an item has no image; fetch those that are addresses."
        ) from error


def _text_key(text: str) -> bytes:
    return hashlib.sha256(b"text\0" + text.encode()).digest()


def _image_key(image) -> bytes:
    return hashlib.sha256(b"image\0" + repr(image.size).encode() + image.tobytes()).digest()


def _identity(model: SentenceTransformer) -> str:
    """Hash of a model's weights and of the settings that change its vectors."""
    settings = [repr(model), model.max_seq_length, model.prompts, model.default_prompt_name, model.truncate_dim]
    digest = hashlib.sha256(repr(settings).encode())
    for name, tensor in model.state_dict().items():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _check_nothing_is_empty(
    items: Dataset | Sequence[Mapping[str, Any]],
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
