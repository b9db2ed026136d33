"""Files are replaced, not overwritten: a full disk, a read-only folder and a death in the middle leave the old one."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from tsrec_hf.hub import add_evaluation
from tsrec_hf.models import NextItemPrior, replacing_tsrec
from tsrec_hf.models.prior_files_tsrec import save_prior
from tsrec_hf.models.replacing_tsrec import replaced, write_text
from tsrec_hf.sids import ResidualKMeans
from tsrec_hf.sids.catalogue import save_embeddings


EVALUATION = {
    "settings": {"dataset": "toy", "split": "test"},
    "results": {"model": {"all": {"num_rows": 8, "hr@10": 0.5, "ndcg@10": 0.25}}},
}


def writers(sid_index, semantics, dataset) -> dict:
    """What writes a file, by the file's name: a function of the folder."""
    quantizer = ResidualKMeans([2, 2]).fit(np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32))
    prior = NextItemPrior.fit(dataset.train, sid_index)
    return {
        "keywords.json": lambda folder: semantics.to_json(folder / "keywords.json"),
        "index.json": lambda folder: sid_index.to_json(folder / "index.json"),
        "sid_index.safetensors": sid_index.save,
        "item_prior.safetensors": lambda folder: save_prior(folder, prior, "log_linear", 1.0),
        "residual_kmeans.safetensors": quantizer.save,
        "embeddings.npy": lambda folder: save_embeddings(folder, np.eye(8, dtype=np.float32), sid_index),
        "README.md": lambda folder: add_evaluation(folder, EVALUATION),
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(params=["keywords.json", "index.json", "sid_index.safetensors", "item_prior.safetensors", "README.md"])
def writer(request, tmp_path, sid_index, semantics, dataset):
    """A writer, and a folder with what it wrote before."""
    write = writers(sid_index, semantics, dataset)[request.param]
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\nMine.\n")
    write(tmp_path)
    return lambda: write(tmp_path), request.param


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_leaves_the_old_file(writer, tmp_path, monkeypatch, number) -> None:
    write, name = writer
    before = contents(tmp_path)

    def full(path):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(replacing_tsrec, "sync", full)
    with pytest.raises(OSError, match=f"Expected to write .*{name}, but found: .*; what was there before") as error:
        write()
    assert error.value.errno == number and "\n" not in str(error.value)
    assert contents(tmp_path) == before


def test_a_death_before_the_rename_leaves_the_old_file(writer, tmp_path, monkeypatch) -> None:
    write, name = writer
    before = contents(tmp_path)

    def die(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(replacing_tsrec.os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        write()
    assert contents(tmp_path) == before


def test_every_writer_replaces(tmp_path, sid_index, semantics, dataset, monkeypatch) -> None:
    """Nothing is opened for writing under its own name."""
    names, replace = [], os.replace

    def watched(source, target):
        names.append(Path(target).name)
        assert Path(source).parent == Path(target).parent
        replace(source, target)

    monkeypatch.setattr(replacing_tsrec.os, "replace", watched)
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\nMine.\n")
    for name, write in writers(sid_index, semantics, dataset).items():
        write(tmp_path)
        assert name in names, name


def test_errors_of_safetensors_are_told_too(tmp_path) -> None:
    with pytest.raises(PermissionError, match="Expected to write .*a.bin, but found: Permission denied; nothing is"):
        with replaced(tmp_path / "a.bin"):
            raise SafetensorError("Error while serializing: I/O error: Permission denied (os error 13)")
    with pytest.raises(SafetensorError, match="^invalid"):
        with replaced(tmp_path / "a.bin"):
            raise SafetensorError("invalid shape")


def test_other_folders_and_rights(tmp_path) -> None:
    write_text(tmp_path / "new" / "a.txt", "x\r\ny")
    assert (tmp_path / "new" / "a.txt").read_bytes() == b"x\r\ny"
    os.chmod(tmp_path / "new" / "a.txt", 0o640)
    write_text(tmp_path / "new" / "a.txt", "y")
    assert (tmp_path / "new" / "a.txt").stat().st_mode & 0o777 == 0o640
    with pytest.raises(OSError, match="A part of the path is a file|in the way"):
        write_text(tmp_path / "new" / "a.txt" / "b.txt", "z")
    with pytest.raises(ValueError, match="half of a surrogate pair, behind 'nut '"):
        write_text(tmp_path / "new" / "a.txt", "nut \ud83d")
    assert (tmp_path / "new" / "a.txt").read_text() == "y"
