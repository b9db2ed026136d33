"""Raises the Hub's own error when a checkpoint cannot be downloaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)


HUB_ERRORS = (GatedRepoError, LocalEntryNotFoundError, OfflineModeIsEnabled, RevisionNotFoundError)
HUB_ARGUMENTS = ("cache_dir", "local_files_only", "revision", "subfolder", "token")


def read_checkpoint(read: Callable[..., Any], name_or_path: str | Path, file_name: str, *args, **kwargs) -> Any:
    """
    Calls `read(name_or_path, *args, **kwargs)`, a `from_pretrained`, and raises the Hub's own error where a repository
    is gated, a revision is unknown, or a file is neither cached nor reachable.

    Transformers keeps the Hub's error as the cause of its own, or drops it: for a tokenizer that is not in the cache
    it asks to install sentencepiece. In that case the Hub is asked again, for the file `file_name`.
    """
    try:
        return read(name_or_path, *args, **kwargs)
    except (OSError, ValueError) as error:
        said = _hub_error_behind(error)
        if said is None and not Path(name_or_path).exists():
            said = _ask_again(str(name_or_path), file_name, kwargs)
        if said is None:
            raise
    # Behind the block: the error that it caused would be its context as well.
    raise said


def _hub_error_behind(error: BaseException | None) -> BaseException | None:
    while error is not None and not isinstance(error, HUB_ERRORS):
        error = error.__cause__ or error.__context__
    return error


def _ask_again(repo_id: str, file_name: str, arguments: dict[str, Any]) -> BaseException | None:
    asked = {name: arguments[name] for name in HUB_ARGUMENTS if arguments.get(name) is not None}
    try:
        hf_hub_download(repo_id, file_name, **asked)
    except HUB_ERRORS as said:
        return said
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError):
        pass  # what transformers said is as clear
    return None
