"""Paths on the command line are looked at before anything is imported: a mistyped folder is no name on the Hub."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any


CHECKPOINTS = ("model_name_or_path", "encoder", "image_encoder")
FOLDERS = ("data_dir", "extend_dir")
FILES = ("items_file", "interactions_file", "earlier_file", "embeddings_file", "sid_index")
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def check_paths(options: Iterable[Any]) -> None:
    """
    Looks whether the paths among options are there.

    Args:
        options (`Iterable`):
            Objects with options as attributes.

    Raises:
        `FileNotFoundError`: some are not; the message names all of them, and what was perhaps meant.
    """
    found = {
        name: value
        for one in options
        for name in (*CHECKPOINTS, *FOLDERS, *FILES)
        if isinstance(value := getattr(one, name, None), str)
    }
    if any(getattr(one, "teacher", None) == "inference" for one in options):
        found.pop("model_name_or_path", None)  # a name on a server
    faults = []
    for name, value in found.items():
        if name in CHECKPOINTS:
            faults += checkpoint_faults(value, name)
        elif not Path(value).expanduser().exists():
            kind = "a folder" if name in FOLDERS else "a file or folder"
            faults.append(f"Expected {kind} at {value!r} (`--{name}`), but there is none.{_meant(value)}")
    if faults:
        raise FileNotFoundError("\n".join(faults))


def checkpoint_faults(value: str, name: str | None = None) -> list[str]:
    """
    What is wrong with the name of a checkpoint: nothing for a folder that exists and for what can be a Hub id. The
    option of this name, if there is one, is told.

    Example:

    ```python
    >>> from tsrec_hf.cli.paths import checkpoint_faults

    >>> checkpoint_faults("HuggingFaceTB/SmolLM2-135M", "model_name_or_path")
    []
    >>> checkpoint_faults("./outputs/stf", "model_name_or_path")
    ["Expected a folder at './outputs/stf' (`--model_name_or_path`), but there is none. Check the path."]
    ```
    """
    path = Path(value).expanduser()
    if path.exists():
        return []
    expected = f"Expected a folder at {value!r}{f' (`--{name}`)' if name else ''}, but there is none."
    first = path.parts[0] if path.parts else ""
    is_local = value.startswith((".", "/", "~")) or not HUB_ID.fullmatch(value) or Path(first).is_dir()
    if not is_local and len(path.parts) > 1:
        # `output/sft` where there is a folder `outputs`.
        close = difflib.get_close_matches(first, _names_in(Path()), n=1, cutoff=0.85)
        is_local = bool(close) and Path(close[0], *path.parts[1:]).exists()
        if is_local:
            meant = Path(close[0], *path.parts[1:])
            return [f"{expected} Did you mean {str(meant)!r}?"]
    if not is_local:
        return []
    return [f"{expected}{_meant(value)}"]


def _meant(value: str) -> str:
    path = Path(value).expanduser()
    close = difflib.get_close_matches(path.name, _names_in(path.parent), n=1, cutoff=0.6)
    return f" Did you mean {str(path.parent / close[0])!r}?" if close else " Check the path."


def _names_in(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir()) if folder.is_dir() else []
