"""What a prepared catalogue keeps beside its data set: embeddings that know their items, a report, later items."""

import hashlib
import importlib.util
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError

import numpy as np

from tsrec_hf.models import SIDIndex
from tsrec_hf.models.checking_tsrec import checks_types
from tsrec_hf.models.file_sets_tsrec import check_listed
from tsrec_hf.models.json_files_tsrec import read_json
from tsrec_hf.models.replacing_tsrec import replaced, write_text

from .collisions import Quantizer, resolve_collisions
from .report import SIDReport


logger = logging.getLogger(__name__)

EMBEDDINGS_NAME = "embeddings.npy"
FACTS_NAME = "embeddings.json"


@checks_types
def propose_level_sizes(num_items: int, num_levels: int = 3) -> list[int]:
    r"""
    Proposes how many codes each level of a catalogue's SIDs should have.

    A code is a token whose meaning is learned from the items that have it, so there are about 16 items to a code, and
    never fewer SIDs than twice the items: with a free SID near by, [`resolve_collisions`] need not move an item far.
    More than 256 codes, the number in the literature, are proposed only where the SIDs would not suffice otherwise.

    Args:
        num_items (`int`):
            Number of items.
        num_levels (`int`, *optional*, defaults to `3`):
            Number of levels.

    Returns:
        `list[int]`: The same power of two from 4 on for each level.

    Raises:
        `ValueError`: no item, or no level.

    Example:

    ```python
    >>> from tsrec_hf.sids import propose_level_sizes

    >>> propose_level_sizes(1682), propose_level_sizes(1682, num_levels=4), propose_level_sizes(100_000, num_levels=2)
    ([128, 128, 128], [128, 128, 128, 128], [512, 512])
    ```
    """
    if num_items < 1 or num_levels < 1:
        raise ValueError(
            f"Expected at least one item and one level, found num_items={num_items}, num_levels={num_levels}. Pass "
            "the size of the catalogue."
        )
    size = 4
    while (size < 256 and size * 16 < num_items) or size**num_levels < 2 * num_items:
        size *= 2
    return [size] * num_levels


@checks_types
def extend_index(
    earlier: SIDIndex,
    item_ids: Sequence[str],
    embeddings: np.ndarray,
    quantizer: Quantizer,
    collisions: str = "reassign",
    titles: Sequence[str] | None = None,
) -> SIDIndex:
    """
    The index of a later catalogue: known items keep their SIDs, those that had gone and are back get theirs again, and
    new ones get codes of the same quantiser which no item ever had.

    Args:
        earlier ([`SIDIndex`]):
            The index of the earlier catalogue, an ancestor of the result unless nothing changes.
        item_ids (`Sequence[str]`):
            All items of the later catalogue; those of `earlier` that are not among them go.
        embeddings (`np.ndarray` of shape `(items, dim)`):
            Embeddings in the order of `item_ids`.
        quantizer ([`ResidualKMeans`] or [`RQVAE`]):
            The quantiser of the earlier catalogue.
        collisions (`str`, *optional*, defaults to `"reassign"`):
            Policy of [`resolve_collisions`].
        titles (`Sequence[str]`, *optional*):
            Titles in the order of `item_ids`. Items that have another one than before keep their SIDs.

    Raises:
        `ValueError`: new items that do not fit into the levels of the earlier index.
    """
    back = _returned(earlier, item_ids, collisions)
    index = earlier.with_items(list(back), sids=list(back.values())) if back else earlier
    rows = [row for row, item_id in enumerate(item_ids) if item_id not in index]
    if rows:
        found = _new_codes(index, embeddings[rows], quantizer, collisions)
        index = index.with_items([item_ids[row] for row in rows], codes=found)
    kept = set(item_ids)
    gone = [item_id for item_id in earlier.item_ids if item_id not in kept]
    index = index.without_items(gone) if gone else index
    if titles is None:
        return index
    title_of = dict(zip(item_ids, titles, strict=True))
    return index._replace(titles=[title_of[item_id] for item_id in index.item_ids])


def _returned(earlier: SIDIndex, item_ids: Sequence[str], collisions: str) -> dict[str, str]:
    """
    Items that had gone and are back, with their SIDs. Where items share none, others may have these now, or another
    one is back that had them later.
    """
    gone, wanted = earlier.delisted, set(item_ids)
    if gone is None:
        return {}
    back: dict[str, str] = {}
    in_use: set[str] = set()
    for item_id in (item_id for item_id in reversed(gone.item_ids) if item_id in wanted):
        sid = gone.sid_of(item_id)
        if collisions == "keep" or not (sid in in_use or earlier.items_of(sid)):
            back[item_id] = sid
            in_use.add(sid)
    return back


def _new_codes(earlier: SIDIndex, new: np.ndarray, quantizer: Quantizer, collisions: str) -> np.ndarray:
    """
    Codes of new items that are no SID of another item, be it one that went: the model of yesterday has learned these
    SIDs for those items. Where SIDs run short, those of items that went are free again, the longest gone first.
    """
    codes, gone = quantizer.encode(new), _gone_codes(earlier, len(new))
    found = resolve_collisions(codes, new, quantizer, collisions, taken=np.concatenate([earlier.codes, gone]))
    if collisions == "suffix":
        found = _with_free_suffixes(found, earlier, gone)
    elif (found.max(axis=0) >= earlier.level_sizes).any():
        found = resolve_collisions(codes, new, quantizer, collisions, taken=earlier.codes)
    if (found.max(axis=0) >= earlier.level_sizes).any():
        raise ValueError(
            f"Expected the new items to fit into the levels {earlier.level_sizes} of the earlier index, but the "
            f"highest codes are {found.max(axis=0).tolist()}, whose tokens no model knows. Make all SIDs anew."
        )
    return found


def _gone_codes(index: SIDIndex, num_new: int) -> np.ndarray:
    """SIDs that only items have which went, the longest gone first, as many as leave room for new items."""
    live = set(map(tuple, index.codes.tolist()))
    last = [] if index.delisted is None else index.delisted.codes[::-1].tolist()
    gone = [sid for sid in dict.fromkeys(map(tuple, last)) if sid not in live]
    room = max(0, math.prod(index.level_sizes) - len(live) - num_new)
    return np.array(gone[:room][::-1], dtype=np.int32).reshape(-1, index.num_levels)


def _with_free_suffixes(codes: np.ndarray, index: SIDIndex, gone: np.ndarray) -> np.ndarray:
    """Numbers the items anew whose suffix is none of the index: by one that was never used, else the longest gone."""
    size = index.level_sizes[-1]
    beyond = codes[:, -1] >= size
    used = set(map(tuple, np.concatenate([index.codes, codes[~beyond]]).tolist()))
    age = {sid: place for place, sid in enumerate(map(tuple, gone.tolist()))}
    for row in np.flatnonzero(beyond):
        prefix = codes[row, :-1].tolist()
        free = [sid for sid in ((*prefix, number) for number in range(size)) if sid not in used]
        if free:
            codes[row] = min(free, key=lambda sid: age.get(sid, -1))
            used.add(tuple(codes[row].tolist()))
    return codes


@checks_types
def save_embeddings(directory: str | Path, embeddings: np.ndarray, sid_index: SIDIndex) -> None:
    """Writes embeddings in the order of the index, and which items and index they belong to."""
    if len(embeddings) != len(sid_index):
        raise ValueError(f"Expected {len(sid_index)} embeddings, one an item of the index, found {len(embeddings)}.")
    facts = {"item_ids_hash": _hash_of(sid_index), "index_fingerprint": sid_index.fingerprint}
    # Without facts, vectors are refused: a killed run leaves no old facts with new vectors.
    Path(directory, FACTS_NAME).unlink(missing_ok=True)
    with replaced(Path(directory, EMBEDDINGS_NAME)) as part, part.open("wb") as file:
        np.save(file, embeddings)
    write_text(Path(directory, FACTS_NAME), json.dumps(facts))


@checks_types
def load_embeddings(directory: str | Path, sid_index: SIDIndex) -> np.ndarray:
    """Embeddings that [`save_embeddings`] wrote, mapped into memory, after checking that they are of this index."""
    directory = Path(directory)
    for name in (EMBEDDINGS_NAME, FACTS_NAME):
        check_listed(directory / name)
        if not (directory / name).is_file():
            raise FileNotFoundError(f"Expected {name} in {directory}, but there is none. Build the SIDs again.")
    facts = read_json(directory / FACTS_NAME)
    expected = {"item_ids_hash": _hash_of(sid_index), "index_fingerprint": sid_index.fingerprint}
    try:
        embeddings = np.load(directory / EMBEDDINGS_NAME, mmap_mode="r", allow_pickle=False)
    # NumPy reads the header as Python literals.
    except (ValueError, TypeError, EOFError, OSError, SyntaxError, TokenError) as error:
        raise ValueError(
            f"{directory / EMBEDDINGS_NAME} is not a whole file of vectors ({error}). Build the SIDs again."
        ) from error
    if facts != expected or len(embeddings) != len(sid_index):
        raise ValueError(
            f"Expected {directory / EMBEDDINGS_NAME} to hold the {len(sid_index)} items of SID index "
            f"{sid_index.fingerprint} in its order, but found {len(embeddings)} rows of {facts}. Build the SIDs again."
        )
    return embeddings


def write_report(directory: str | Path, report: SIDReport, text: str) -> None:
    """Writes `report.md` (the text), `report.json` and, where matplotlib is installed, `report.png`."""
    directory = Path(directory)
    write_text(directory / "report.md", f"{text}\n")
    write_text(directory / "report.json", json.dumps(report.to_dict(), indent=1))
    if importlib.util.find_spec("matplotlib") is None:
        advice = '`pip install ".[plots]"` in a clone of the repository'
        logger.warning(f"No plot: it needs matplotlib. Install it with {advice}.")
    else:
        report.plot(directory / "report.png")


def _hash_of(sid_index: SIDIndex) -> str:
    return hashlib.sha256(json.dumps(sid_index.item_ids, ensure_ascii=False).encode()).hexdigest()[:16]
