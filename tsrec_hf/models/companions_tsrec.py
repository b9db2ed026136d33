"""What a recommender's repository holds beside the weights, so that whatever is pushed is whole."""

import shutil
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from .index_files_tsrec import SID_INDEX_FILE
from .prior_files_tsrec import PRIOR_FILE


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", SID_INDEX_FILE, PRIOR_FILE)
SHOWCASE_FILE = "showcase.json"
# What the SID tokens mean, what a page shows, what was measured, and the code of the endpoint and of the pipeline.
FURTHER_FILES = (
    "description_keywords.json",
    SHOWCASE_FILE,
    "metrics.json",
    "handler.py",
    "requirements.txt",
    "pipeline_tsrec.py",
)
FOLDER_PATTERNS = ("*.png", ".eval_results/*.yaml")


def add_companions(directory: str | Path, tokenizer: Any, origin: str) -> set[str]:
    """
    Writes into a folder of weights what belongs to them and is not there.

    Args:
        directory (`str` or `Path`):
            The folder that is about to be pushed.
        tokenizer ([`TSRecTokenizer`], *optional*):
            The recommender's tokenizer; without it the files of `origin` are taken.
        origin (`str`):
            Folder or Hub id that the weights were read from; empty where they were made in memory.

    Returns:
        `set[str]`: Names of all companions in the folder now.

    Raises:
        `ValueError`: neither a tokenizer nor an origin that has one.
    """
    directory = Path(directory)
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)
    wanted = FURTHER_FILES if tokenizer is not None else (*TOKENIZER_FILES, *FURTHER_FILES)
    found = {name: _find(origin, name) for name in wanted if origin and not (directory / name).exists()}
    if origin and Path(origin).is_dir():
        pictures = [path for pattern in FOLDER_PATTERNS for path in Path(origin).glob(pattern)]
        found |= {str(path.relative_to(origin)): path for path in pictures}
    for name, path in found.items():
        if path is not None and not (directory / name).exists():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, directory / name)
    if not (directory / SID_INDEX_FILE).is_file():
        where = f"in {origin!r}" if origin else "for a model that was made in memory"
        raise ValueError(
            f"Expected the tokenizer and its {SID_INDEX_FILE} beside the weights, but found none {where}: nobody "
            "could use what is pushed. Set `model.tokenizer = tokenizer`, or save both to one folder and push the "
            "model that is read from there."
        )
    return {name for name in (*TOKENIZER_FILES, *FURTHER_FILES, *found) if (directory / name).exists()}


def _find(origin: str, name: str) -> Path | None:
    """A file of a folder or, if it has it, of a repository."""
    if Path(origin).is_dir():
        path = Path(origin, name)
        return path if path.is_file() else None
    found = cached_file(
        origin,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)
