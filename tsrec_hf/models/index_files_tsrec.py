"""The files of a SID index: `sid_index.safetensors`, and MiniOneRec's `index.json`."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from .array_files_tsrec import read_arrays
from .file_sets_tsrec import check_listed
from .json_files_tsrec import read_json
from .replacing_tsrec import replaced


SID_INDEX_FILE = "sid_index.safetensors"
FORMAT_VERSION = 1


def write_index(
    directory: str | Path, arrays: dict[str, np.ndarray], strings: Mapping[str, Sequence[str]], facts: dict[str, Any]
) -> Path:
    """Writes arrays, columns of strings and facts to `directory/sid_index.safetensors`; returns the file's path."""
    path = Path(directory, SID_INDEX_FILE)
    for name, column in strings.items():
        arrays = arrays | _pack_strings(name, column)
    facts = {"version": FORMAT_VERSION, **facts, "checksum": _checksum(arrays)}
    # One entry of metadata: several would be written in an order that changes from save to save.
    with replaced(path) as part:
        save_file(arrays, part, metadata={"tsrec_sid_index": json.dumps(facts)})
    return path


def read_index(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, list[str]], dict[str, Any]]:
    """
    Reads what [`write_index`] wrote: arrays, columns of strings and facts.

    Raises:
        `FileNotFoundError`: no such file. `ValueError`: a truncated file, one of another format, one whose contents
        were changed since it was written.
    """
    path = Path(path)
    path = path / SID_INDEX_FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"Expected a SID index at {path}, but there is no such file. Write it with `save`.")
    check_listed(path)
    facts, arrays = read_arrays(path, "tsrec_sid_index")
    facts = facts or {}
    if facts.get("version") != FORMAT_VERSION:
        raise ValueError(
            f"Expected {path} to be a SID index of version {FORMAT_VERSION}, but found version "
            f"{facts.get('version')}. Write it with `SIDIndex.save` of this release."
        )
    # Files of earlier releases have none.
    if facts.pop("checksum", None) not in (None, _checksum(arrays)):
        raise ValueError(
            f"Expected {path} as it was saved, but its codes, ids or titles have changed since (another checksum). "
            "Fetch or save it again; change a catalogue by `SIDIndex.with_items`, or make a new `SIDIndex`."
        )
    columns = [name.removesuffix("_offsets") for name in arrays if name.endswith("_offsets")]
    strings = {name: _unpack_strings(arrays.pop(name), arrays.pop(f"{name}_offsets")) for name in columns}
    return arrays, strings, facts


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the names, types, shapes and contents of arrays."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def read_index_json(path: str | Path) -> tuple[list[str], list[list[int]], list[list[str]]]:
    """
    Reads MiniOneRec's `index.json`: item ids, codes (positions among each level's tokens) and the levels' tokens,
    ordered by number.

    Raises:
        `ValueError`: a truncated file, SIDs of unequal length, another form.
    """
    path = Path(path)
    document = read_json(path)
    pairs = list(document.items()) if isinstance(document, dict) else []
    if not pairs or not all(map(_is_json_item, pairs)):
        raise ValueError(
            f'Expected {path} to hold an object such as {{"item id": ["<a_1>", "<b_2>", "<c_3>"]}} with at least '
            "one item."
        )
    item_ids, sids = zip(*pairs)
    widths = {len(sid) for sid in sids}
    if len(widths) != 1:
        ragged, width = next((item, len(sid)) for item, sid in pairs if len(sid) != len(sids[0]))
        raise ValueError(
            f"Expected SIDs of equal length in {path}, but item {item_ids[0]!r} has {len(sids[0])} tokens and "
            f"item {ragged!r} has {width}. Rebuild the index with one number of levels."
        )
    tokens = [sorted(set(level), key=_natural_key) for level in zip(*sids)]
    code_of = [{token: code for code, token in enumerate(level)} for level in tokens]
    codes = [[lookup[token] for lookup, token in zip(code_of, sid)] for sid in sids]
    return list(item_ids), codes, tokens


def _is_json_item(pair: tuple[str, object]) -> bool:
    return isinstance(pair[1], list) and all(isinstance(token, str) for token in pair[1])


def _natural_key(token: str) -> tuple:
    return tuple(int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", token))


def _pack_strings(name: str, strings: Sequence[str]) -> dict[str, np.ndarray]:
    try:
        encoded = [string.encode() for string in strings]
    except UnicodeEncodeError as error:
        raise ValueError(
            f"Expected {name} that UTF-8 can hold, but found half of a surrogate pair in {error.object!r}. Remove it, "
            "or repair the text where it is read."
        ) from error
    offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum([len(part) for part in encoded], out=offsets[1:])
    return {name: np.frombuffer(b"".join(encoded), dtype=np.uint8), f"{name}_offsets": offsets}


def _unpack_strings(array: np.ndarray, offsets: np.ndarray) -> list[str]:
    data, bounds = array.tobytes(), offsets.tolist()
    return [data[start:stop].decode() for start, stop in zip(bounds[:-1], bounds[1:])]
