"""The file of an item prior, beside the tokenizer's."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from .array_files_tsrec import read_arrays
from .given_priors_tsrec import MixedPrior
from .indexing_tsrec import SIDIndex
from .item_prior_tsrec import ItemPrior
from .priors_tsrec import NextItemPrior, PopularityPrior, SimilarityPrior
from .replacing_tsrec import replaced


PRIOR_FILE = "item_prior.safetensors"
FORMAT_VERSION = 1
# A file may hold any of these, and what else is defined by then.
BUILT_IN = (MixedPrior, NextItemPrior, PopularityPrior, SimilarityPrior)


def save_prior(directory: str | Path, prior: ItemPrior, form: str, weight: float) -> Path:
    """
    Writes a prior, and how it is combined with the model, to `directory/item_prior.safetensors`.

    Raises:
        `TypeError`: a prior that has no `state`.
    """
    arrays, facts = prior.state()
    path = Path(directory, PRIOR_FILE)
    described = {
        "version": FORMAT_VERSION,
        "kind": type(prior).__name__,
        "index": prior.index.fingerprint,
        "facts": facts,
        "form": form,
        "weight": weight,
    }
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with replaced(path) as part:
        save_file(contiguous, part, {"prior": json.dumps(described)})
    return path


def load_prior(path: str | Path, index: SIDIndex) -> tuple[ItemPrior, str, float]:
    """
    Reads what [`save_prior`] wrote: the prior, its form and its weight.

    Raises:
        `ValueError`: a prior of another index, of a class that is not loaded, or of another format.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected an item prior at {path}, but there is no such file. Write it by `save`.")
    described, arrays = read_arrays(path, "prior")
    described = described or {}
    if described.get("version") != FORMAT_VERSION or described.get("kind") not in ItemPrior.kinds:
        raise ValueError(
            f"Expected {path} to hold an item prior of version {FORMAT_VERSION} and of one of the kinds "
            f"{sorted(ItemPrior.kinds)}, but found version {described.get('version')} and kind "
            f"{described.get('kind')!r}. Import the module that defines the prior first."
        )
    if described.get("index") != index.fingerprint:
        raise ValueError(
            f"Expected the item prior in {path} to belong to the SID index beside it ({index}, {index.fingerprint}), "
            f"but it belongs to another, {described.get('index')}. Fit the prior on this catalogue."
        )
    try:
        prior = ItemPrior.kinds[described["kind"]].from_state(index, arrays, described["facts"])
        return prior, described["form"], described["weight"]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"Expected {path} to hold all of the prior {described['kind']!r}, but it is damaged ({error}). Fetch or "
            "save it again."
        ) from error
