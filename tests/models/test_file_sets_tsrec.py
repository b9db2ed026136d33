"""Files that belong together are written together, whenever the process dies; those of two runs are refused."""

import json
import os
import shutil

import pytest

from tsrec_hf.models import SIDIndex
from tsrec_hf.models.file_sets_tsrec import SET_FILE, check_listed, finish_sets, replaced_set


def write(folder, word: str, names=("a", "b", "c")) -> None:
    with replaced_set(folder, facts={"word": word}) as part:
        for name in names:
            (part / name).write_text(word)


def read(folder) -> dict[str, str]:
    finish_sets(folder)
    # A process that dies cannot remove its temporary folder, which nobody takes for a part of the set.
    files = [path for path in folder.iterdir() if not path.name.endswith(".part")]
    for path in files:
        check_listed(path)
    return {path.name: path.read_text() for path in files if path.name != SET_FILE}


def test_a_set_replaces_another_and_keeps_other_files(tmp_path) -> None:
    write(tmp_path, "old")
    (tmp_path / "mine").write_text("mine")
    write(tmp_path, "new", names=("a", "b"))
    assert read(tmp_path) == {"a": "new", "b": "new", "mine": "mine"}
    listed = json.loads((tmp_path / SET_FILE).read_text())
    assert listed["word"] == "new" and listed["bytes"] == {"a": 3, "b": 3} and len(listed["files"]["a"]) == 64


def test_a_process_that_dies_leaves_the_old_set_or_the_new_one(tmp_path, monkeypatch) -> None:
    """At every rename and deletion."""
    rename, remove, place = os.replace, shutil.rmtree, 0
    while True:
        folder, done = tmp_path / str(place), []
        write(folder, "old", names=("a", "b", "c", "gone"))

        def counted(function):
            def call(*arguments, **kwargs):
                if len(done) == place:
                    raise SystemExit
                done.append(function)
                return function(*arguments, **kwargs)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", counted(rename))
            patch.setattr(shutil, "rmtree", counted(remove))
            try:
                write(folder, "new")
            except SystemExit:
                pass
            else:
                break
        new = {"a": "new", "b": "new", "c": "new"}
        assert read(folder) in ({name: "old" for name in ("a", "b", "c", "gone")}, new)
        # The first rename is that of the list inside the folder; with the folder's own the new set begins to count.
        assert (read(folder) == new) == (done.count(rename) > 1)
        place += 1
    assert place > 5


def test_a_file_of_another_run_is_refused_by_name(tmp_path, sid_index) -> None:
    for name, index in (("first", sid_index), ("second", sid_index.without_items(["nail"]))):
        with replaced_set(tmp_path / name) as part:
            index.save(part)
    assert SIDIndex.load(tmp_path / "first") == sid_index
    shutil.copy(tmp_path / "second" / "sid_index.safetensors", tmp_path / "first")
    with pytest.raises(ValueError, match="first/sid_index.safetensors as it was written with the other files of"):
        SIDIndex.load(tmp_path / "first")
    (tmp_path / "first" / SET_FILE).unlink()
    assert len(SIDIndex.load(tmp_path / "first")) == 7


@pytest.mark.parametrize("text", ['{"files"', "[]", '{"files": []}', '{"files": {"../../a": ""}}', "{}"])
def test_a_list_that_is_none(tmp_path, text) -> None:
    write(tmp_path, "old")
    (tmp_path / SET_FILE).write_text(text)
    with pytest.raises(ValueError, match=f"{SET_FILE}"):
        check_listed(tmp_path / "a")
