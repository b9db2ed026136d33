"""
Checkpoints that are whole or absent.

A checkpoint is written into a folder of its own beside the others, `_unfinished/checkpoint-N`, and gets its name,
`checkpoint-N`, when all of it is there: weights, optimiser, random states, whatever a method adds, and last a manifest
of the files and their sizes. Older ones are deleted after that. A process that dies at any moment leaves the last
whole checkpoint; what it left unfinished is never resumed from.
"""

import json
import logging
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from transformers import TrainerState, TrainingArguments
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints, sort_checkpoints

from tsrec_hf.models import SIDIndex
from tsrec_hf.models.index_files_tsrec import SID_INDEX_FILE
from tsrec_hf.models.replacing_tsrec import sync, write_text


logger = logging.getLogger(__name__)

# With an underscore, so that `push_to_hub` of a trainer leaves it out.
UNFINISHED = "_unfinished"
MANIFEST = "checkpoint_files.json"
# People write into the card; nothing is resumed from it.
NOT_LISTED = (MANIFEST, "README.md")
LAST = ("true", "last")


class StagedCheckpoint:
    """
    A checkpoint that is being written.

    Args:
        run_dir (`str`):
            Folder of the run's checkpoints.
        step (`int`):
            The step it is of.
        args ([`~transformers.TrainingArguments`]):
            Which process writes, and how many checkpoints are kept.
        wait_for_everyone (`Callable`):
            Blocks until all processes have called it.

    Attributes:
        folder (`str`):
            Folder of checkpoints that are not finished.
        path (`Path`):
            The checkpoint in it.
        final (`Path`):
            The checkpoint when it is whole.
    """

    def __init__(self, run_dir: str, step: int, args: TrainingArguments, wait_for_everyone: Callable[[], None]):
        self.run_dir, self.args, self.wait_for_everyone = run_dir, args, wait_for_everyone
        name = f"{PREFIX_CHECKPOINT_DIR}-{step}"
        self.folder = os.path.join(run_dir, UNFINISHED)
        self.path, self.final = Path(self.folder, name), Path(run_dir, name)

    def begin(self) -> None:
        """Makes room; called by all processes."""
        if self.args.should_save:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.path.mkdir(parents=True, exist_ok=True)
        self.wait_for_everyone()

    def finish(self, state: TrainerState) -> None:
        """Gives the checkpoint its name; called by all processes, when each has written its part."""
        self.wait_for_everyone()
        # `Trainer` looks for the best one in the folder it writes to.
        best = Path(self.run_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}")
        if best == self.final or best.is_dir():
            state.best_model_checkpoint = str(best)
        if self.args.should_save:
            state.save_to_json(str(self.path / TRAINER_STATE_NAME))
            write_manifest(self.path)
            publish(self.path, self.final)
        self.wait_for_everyone()

    def rotate(self, state: TrainerState) -> None:
        """Deletes the oldest checkpoints beyond `save_total_limit`."""
        if self.args.should_save:
            rotate_checkpoints(self.run_dir, self.args.save_total_limit, state.best_model_checkpoint, use_mtime=True)


def write_manifest(folder: Path) -> None:
    """Lists the files of a checkpoint and their sizes, all of them on the disk before the list is."""
    sizes = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in NOT_LISTED):
        sync(path)
        sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
    write_text(folder / MANIFEST, json.dumps({"files": sizes}, indent=1))


def publish(path: Path, final: Path) -> None:
    """Gives a whole checkpoint its name, in the place of an older one of that name."""
    replaced = path.parent / f"replaced-{final.name}"
    if final.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        # If the process dies behind this line, `publish_finished` goes on at the next start.
        os.rename(final, replaced)
    os.rename(path, final)
    shutil.rmtree(path.parent, ignore_errors=True)


def publish_finished(run_dir: str | Path) -> None:
    """Gives checkpoints their names that were whole when their process died."""
    for path in sorted(Path(run_dir, UNFINISHED).glob(f"{PREFIX_CHECKPOINT_DIR}-*")):
        if (path / MANIFEST).is_file() and why_not_whole(path) is None:
            publish(path, Path(run_dir, path.name))


def last_whole(run_dir: str | Path) -> tuple[Path | None, dict[Path, str]]:
    """The newest whole checkpoint of a run, and why each newer one is none."""
    skipped: dict[Path, str] = {}
    for path in map(Path, reversed(sort_checkpoints(str(run_dir)))):
        reason = why_not_whole(path)
        if reason is None:
            return path, skipped
        skipped[path] = reason
    return None, skipped


def resolve_resume(value: str | bool | None, run_dir: str, sid_index: SIDIndex) -> str | None:
    """
    The checkpoint that a run goes on from.

    Args:
        value (`str` or `bool`, *optional*):
            A folder; `True`, `"true"` or `"last"` for the newest whole checkpoint of the run; nothing for a new start.
        run_dir (`str`):
            Folder of the run's checkpoints.
        sid_index ([`SIDIndex`]):
            The catalogue that is trained on.

    Returns:
        `str`: The checkpoint's folder, or `None` for a new start.

    Raises:
        `FileNotFoundError`: no such folder. `ValueError`: no whole checkpoint; a file that is missing or truncated; a
        checkpoint of another catalogue.
    """
    if value is None or value is False or str(value).lower() in ("false", "none", ""):
        return None
    if value is True or str(value).lower() in LAST:
        found, skipped = last_whole(run_dir)
        reasons = [f"{path} ({reason})" for path, reason in skipped.items()]
        if found is None:
            raise ValueError(
                f"Expected a whole checkpoint in {run_dir}, but found none"
                + (f"; skipped: {', '.join(reasons)}" if reasons else "")
                + ". Leave `resume_from_checkpoint` out to start anew."
            )
        if reasons:
            logger.warning(f"Skipped checkpoints that are not whole: {', '.join(reasons)}.")
        logger.info(f"Going on from {found}.")
    else:
        found = Path(str(value))
        if not found.is_dir():
            raise FileNotFoundError(
                f"Expected a checkpoint in {found}, but there is no such folder. Pass one that exists, or 'last' for "
                f"the newest whole one in {run_dir}."
            )
        reason = why_not_whole(found)
        if reason is not None:
            raise ValueError(
                f"Expected a whole checkpoint in {found}, but {reason}. Pass another one, or 'last' for the newest "
                f"whole one in {run_dir}."
            )
    _check_catalogue(found, sid_index)
    return str(found)


def why_not_whole(folder: Path) -> str | None:
    """What a checkpoint lacks, by the file's name; `None` for a whole one."""
    return next(_faults(folder), None)


def _faults(folder: Path) -> Iterator[str]:
    manifest = folder / MANIFEST
    if manifest.is_file():
        listed = _read_json(manifest)
        if listed is None:
            yield f"{MANIFEST} is damaged"
            return
        for name, size in listed["files"].items():
            path = folder / name
            if not path.is_file():
                yield f"{name} is missing"
            elif path.stat().st_size != size:
                yield f"{name} has {path.stat().st_size} bytes of {size}"
    # Adapters of several names lie in a folder each.
    names = {path.name for path in (*folder.iterdir(), *folder.glob("*/adapter_model.*"))}
    if TRAINER_STATE_NAME not in names:
        yield f"{TRAINER_STATE_NAME} is missing"
    elif _read_json(folder / TRAINER_STATE_NAME) is None:
        yield f"{TRAINER_STATE_NAME} is damaged"
    # DeepSpeed keeps weights, optimiser and schedule in one folder, FSDP weights and optimiser in one each.
    if not any(name.startswith("global_step") for name in names):
        for wanted, starts in {
            "model.safetensors": ("model.safetensors", "adapter_model.", "pytorch_model"),
            "optimizer.pt": ("optimizer",),
            SCHEDULER_NAME: ("scheduler",),
        }.items():
            if not any(name.startswith(starts) for name in names):
                yield f"{wanted} is missing (`save_only_model=True` leaves what training needs out)"
    if not any(name.startswith("rng_state") for name in names):
        yield "rng_state.pth is missing"
    for path in sorted(folder.rglob("*.safetensors")):
        if not _is_whole_safetensors(path):
            yield f"{path.relative_to(folder)} is truncated"
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".pt", ".pth", ".bin")):
        # Files of `torch.save` are archives, whose table of contents stands at the end.
        if not zipfile.is_zipfile(path):
            yield f"{path.name} is truncated"


def _is_whole_safetensors(path: Path) -> bool:
    """Whether a file is as long as its header says."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 + length:
            return False
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return False
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return size == 8 + length + max(ends, default=0)


def _check_catalogue(folder: Path, sid_index: SIDIndex) -> None:
    path = folder / SID_INDEX_FILE
    if not path.is_file() and any(folder.glob("pytorch_model_fsdp*")):
        return  # shards of FSDP, without a tokenizer
    if not path.is_file():
        raise ValueError(
            f"Expected {SID_INDEX_FILE} in the checkpoint {folder}, which names its catalogue, but there is none. "
            "Pass a checkpoint that a trainer of recommenders wrote."
        )
    saved = SIDIndex.load(path)
    if saved.fingerprint != sid_index.fingerprint:
        raise ValueError(
            f"Expected a checkpoint of the catalogue that is trained on ({sid_index}), but {path} is of another one: "
            f"{saved}. Pass the data that the checkpoint was trained on, or leave `resume_from_checkpoint` out."
        )


def _read_json(path: Path) -> Any | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
