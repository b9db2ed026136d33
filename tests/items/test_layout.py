import hashlib
import json
import os

import pytest
from datasets import Dataset

from tsrec_hf.items import RecommendationDataset, save_minionerec
from tsrec_hf.models import SIDIndex


def make(title="nut", codes=((0, 0), (0, 1)), **kwargs):
    items = Dataset.from_dict({"item_id": ["1", "2"], "title": [title, "bolt"], "price": [1.5, None]})
    rows = Dataset.from_dict({"user_id": ["u", "v"], "history": [["1"], ["1", "2"]], "target": ["2", "1"]})
    index = SIDIndex(["1", "2"], codes) if codes is not None else None
    return RecommendationDataset(items, rows, rows.select([1]), rows.select([]), index, **kwargs)


@pytest.mark.parametrize("codes", [((0, 0), (0, 1)), None])
def test_comes_back(tmp_path, codes):
    dataset = make(codes=codes, name="toy", max_history=7)
    folder = dataset.save(tmp_path / "new" / "shop")
    loaded = RecommendationDataset.load(str(folder))
    assert (loaded.name, loaded.max_history) == ("toy", 7) and loaded.sid_index == dataset.sid_index
    for name in ("items", "train", "valid", "test"):
        assert getattr(loaded, name).to_dict() == getattr(dataset, name).to_dict()
        assert getattr(loaded, name).features == getattr(dataset, name).features
    # Nothing is left beside the folder.
    assert [path.name for path in folder.parent.iterdir()] == ["shop"]
    facts = json.loads((folder / "dataset.json").read_text())
    assert facts["rows"] == {"items": 2, "train": 2, "valid": 1, "test": 0} and facts["format_version"] == 1


def test_saving_again_replaces_and_keeps_other_files(tmp_path):
    make().save(tmp_path)
    (tmp_path / "report.md").write_text("mine")
    make(title="screw", codes=None).save(tmp_path)
    assert RecommendationDataset.load(tmp_path).items["title"][:] == ["screw", "bolt"]
    assert RecommendationDataset.load(tmp_path).sid_index is None
    assert (tmp_path / "report.md").exists() and not (tmp_path / "sid_index.safetensors").exists()


@pytest.mark.parametrize("moves", range(9))
@pytest.mark.parametrize("again", [True, False])
def test_a_killed_save_leaves_the_old_data_set_or_the_new_one(tmp_path, monkeypatch, moves, again):
    folder = tmp_path / "shop"
    if again:
        make().save(folder)
    done, rename = [], os.replace

    def replace(source, target):
        if len(done) == moves:
            raise KeyboardInterrupt
        done.append(target)
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            make(title="screw").save(folder)
    # The index, the list, and then the folder of both is renamed: from there on the new data set is there.
    if moves < 3 and not again:
        with pytest.raises(FileNotFoundError, match="Check the path"):
            RecommendationDataset.load(folder)
        return
    assert RecommendationDataset.load(folder).items["title"][0] == ("nut" if moves < 3 else "screw")
    assert not list(folder.glob("_*")) and not list(folder.glob(".*"))


@pytest.mark.parametrize("name", ["items.parquet", "train.parquet", "sid_index.safetensors"])
def test_files_of_another_run_are_named(tmp_path, name):
    make().save(tmp_path / "a")
    other = make(title="screw", codes=((1, 0), (0, 1)))
    swapped = RecommendationDataset(other.items, other.train.select([1, 0]), other.valid, other.test, other.sid_index)
    swapped.save(tmp_path / "b")
    os.replace(tmp_path / "b" / name, tmp_path / "a" / name)
    with pytest.raises(ValueError, match=f"{name} as it was saved .* a file of another run"):
        RecommendationDataset.load(tmp_path / "a")
    (tmp_path / "a" / name).unlink()
    with pytest.raises(ValueError, match=f"Expected {name} in "):
        RecommendationDataset.load(tmp_path / "a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 9}, "format version 1 in .*dataset.json, but found 9"),
        ({"rows": {"items": 5, "train": 2, "valid": 1, "test": 0}}, "5 rows in .*items.parquet.* but found 2"),
        ({"index_fingerprint": "abc"}, "the SID index abc in .*sid_index.safetensors"),
    ],
)
def test_facts_are_checked(tmp_path, change, message):
    facts = json.loads((make().save(tmp_path) / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps({**facts, **change}))
    with pytest.raises(ValueError, match=message):
        RecommendationDataset.load(tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps(facts)[:-9])
    with pytest.raises(ValueError, match="dataset.json is not valid JSON"):
        RecommendationDataset.load(tmp_path)
    del facts["files"]
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"\['files'\] are missing"):
        RecommendationDataset.load(tmp_path)


def test_one_folder_holds_one_layout(tmp_path):
    rows = make().train
    dataset = RecommendationDataset(make().items, rows, rows, rows, make().sid_index)
    save_minionerec(dataset, tmp_path / "theirs")
    with pytest.raises(FileNotFoundError, match="MiniOneRec's layout: read it with `load_minionerec`"):
        RecommendationDataset.load(tmp_path / "theirs")
    with pytest.raises(ValueError, match="found index.json there"):
        dataset.save(tmp_path / "theirs")
    dataset.save(tmp_path / "ours")
    with pytest.raises(ValueError, match="found dataset.json there"):
        save_minionerec(dataset, tmp_path / "ours")


def test_a_table_that_is_no_parquet_is_named(tmp_path):
    folder = make().save(tmp_path)
    facts = json.loads((folder / "dataset.json").read_text())
    (tmp_path / "items.parquet").write_bytes(b"PAR1 but not really")
    facts["files"]["items.parquet"] = hashlib.sha256(b"PAR1 but not really").hexdigest()
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="items.parquet (is not a whole Parquet file|as it was saved)"):
        RecommendationDataset.load(tmp_path)


@pytest.mark.parametrize("change", [{"rows": {"items": 2}}, {"rows": 5}, {"files": ["items.parquet"]}])
def test_facts_of_another_form_are_refused(tmp_path, change):
    facts = json.loads((make().save(tmp_path) / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps({**facts, **change}))
    with pytest.raises(ValueError, match="Expected `rows` of .* and `files` in .*dataset.json"):
        RecommendationDataset.load(tmp_path)
