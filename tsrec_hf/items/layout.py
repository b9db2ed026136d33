"""Read and write the native layout of a data set: Parquet tables, the SID index and a manifest, `dataset.json`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet
from datasets import Dataset

from tsrec_hf.models import SIDIndex
from tsrec_hf.models.file_sets_tsrec import finish_sets, hash_of, replaced_set
from tsrec_hf.models.json_files_tsrec import read_json


if TYPE_CHECKING:
    from .dataset import RecommendationDataset


FORMAT_VERSION = 1
FACTS_NAME = "dataset.json"
INDEX_NAME = "sid_index.safetensors"
MINIONEREC_INDEX_NAME = "index.json"
TABLES = ("items", "train", "valid", "test")


def write_dataset(dataset: "RecommendationDataset", directory: Path) -> Path:
    """Writes all files, and then `dataset.json`, which lists them, in the place of an earlier data set's."""
    if (directory / MINIONEREC_INDEX_NAME).exists():
        raise ValueError(
            f"Expected {directory} without a data set in MiniOneRec's layout, but found {MINIONEREC_INDEX_NAME} "
            "there, and one folder holds one SID index. Save to another folder."
        )
    tables: dict[str, Dataset] = {name: getattr(dataset, name) for name in TABLES}
    facts = {
        "format_version": FORMAT_VERSION,
        "name": dataset.name,
        "max_history": dataset.max_history,
        "rows": {name: len(table) for name, table in tables.items()},
        "index_fingerprint": None if dataset.sid_index is None else dataset.sid_index.fingerprint,
    }
    with replaced_set(directory, FACTS_NAME, facts) as part:
        for name, table in tables.items():
            table.to_parquet(part / f"{name}.parquet")
        if dataset.sid_index is not None:
            dataset.sid_index.save(part)
    return directory.resolve()


def read_dataset(directory: Path) -> dict[str, Any]:
    """Reads the arguments of a `RecommendationDataset` and checks that the files of the folder belong together."""
    finish_sets(directory)
    facts = _read_facts(directory)
    for name, expected in facts["files"].items():
        path = directory / name
        if not path.is_file():
            raise ValueError(
                f"Expected {name} in {directory}, which its {FACTS_NAME} lists, but there is none. Save the data set "
                "again."
            )
        if hash_of(path) != expected:
            raise ValueError(
                f"Expected {path} as it was saved with the other files of the folder, but found another content: it "
                "is a file of another run, or damaged. Save the data set again."
            )
    arguments: dict[str, Any] = {"name": facts["name"], "max_history": facts["max_history"], "sid_index": None}
    for name in TABLES:
        path = directory / f"{name}.parquet"
        table = Dataset(_read_parquet(path))
        if len(table) != facts["rows"][name]:
            raise ValueError(
                f"Expected {facts['rows'][name]} rows in {path}, as {FACTS_NAME} says, but found {len(table)}. Save "
                "the data set again."
            )
        arguments[name] = table
    if facts["index_fingerprint"] is not None:
        sid_index = SIDIndex.load(directory)
        if sid_index.fingerprint != facts["index_fingerprint"]:
            raise ValueError(
                f"Expected the SID index {facts['index_fingerprint']} in {directory / INDEX_NAME}, as {FACTS_NAME} "
                f"says, but found {sid_index.fingerprint}. Save the data set again."
            )
        arguments["sid_index"] = sid_index
    return arguments


def _read_facts(directory: Path) -> dict[str, Any]:
    path = directory / FACTS_NAME
    if not path.is_file():
        if (directory / MINIONEREC_INDEX_NAME).is_file():
            hint = "This is a data set in MiniOneRec's layout: read it with `load_minionerec` or `open_dataset`."
        elif (directory / "items.parquet").is_file():
            hint = "Tables are there: saving was interrupted. Save the data set again."
        else:
            hint = "Check the path."
        raise FileNotFoundError(f"Expected {FACTS_NAME} in {directory}, but there is none. {hint}")
    facts = read_json(path)
    version = facts.get("format_version") if isinstance(facts, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"Expected format version {FORMAT_VERSION} in {path}, but found {version!r}. Read it with the version of "
            "tsrec_hf that wrote it, or save the data set again."
        )
    expected = ("name", "max_history", "rows", "index_fingerprint", "files")
    missing = [name for name in expected if name not in facts]
    if missing:
        raise ValueError(f"Expected {list(expected)} in {path}, but {missing} are missing. Save the data set again.")
    counted = facts["rows"] if isinstance(facts["rows"], dict) else {}
    if not set(TABLES) <= set(counted) or not isinstance(facts["files"], dict):
        raise ValueError(f"Expected `rows` of {list(TABLES)} and `files` in {path}, but found others. Save it again.")
    return facts


def _read_parquet(path: Path) -> pa.Table:
    try:
        return pyarrow.parquet.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is not a whole Parquet file: {error}. Save the data set again.") from error
