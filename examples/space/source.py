"""Where the recommender comes from, looked at before anything is loaded: a mistyped folder is no name on the Hub."""

from pathlib import Path

from tsrec_hf.cli.paths import checkpoint_faults


CONFIGURATIONS = ("config.json", "adapter_config.json")


def check_source(checkpoint: str, revision: str | None = None) -> None:
    """
    Looks whether a folder holds a recommender, and whether what is no folder can be a Hub id.

    Args:
        checkpoint (`str`):
            Folder or Hub id.
        revision (`str`, *optional*):
            Commit, branch or tag, which only a Hub id has.

    Raises:
        `FileNotFoundError`: a folder without a recommender, or neither a folder nor a Hub id.
    """
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        if any((folder / name).is_file() for name in CONFIGURATIONS):
            return
        inside = sorted({str(path.parent) for name in CONFIGURATIONS for path in folder.glob(f"*/{name}")})
        meant = f" Did you mean {', or '.join(map(repr, inside[:3]))}?" if inside else " Make one with `make demo`."
        raise FileNotFoundError(
            f"Expected a trained recommender in the folder {checkpoint!r}, but it has no config.json.{meant}"
        )
    faults = [] if revision is not None else checkpoint_faults(checkpoint)
    owner, _, name = checkpoint.partition("/")
    if faults and owner.strip(".~") and Path(owner).is_dir() and name and "/" not in name:
        faults.append(f"If a Hub id is meant, add `--revision main`: here {owner!r} is a folder.")
    elif faults:
        faults.append("A recommender is made by `make demo`.")
    elif not name or "/" in name:
        faults.append(f"Expected a folder, or a Hub id such as 'me/tsrec-industrial', but found {checkpoint!r}.")
    if faults:
        raise FileNotFoundError(" ".join(faults))
