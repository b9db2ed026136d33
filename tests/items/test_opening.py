import pytest
from datasets import Dataset

from tsrec_hf import open_dataset
from tsrec_hf.items import RecommendationDataset, save_minionerec
from tsrec_hf.models import SIDIndex


@pytest.fixture
def dataset():
    items = Dataset.from_dict({"item_id": ["1", "2"], "title": ["nut", "bolt"]})
    rows = Dataset.from_dict({"user_id": ["u"], "history": [["1"]], "target": ["2"]})
    return RecommendationDataset(items, rows, rows, rows, SIDIndex(["1", "2"], [[0, 0], [0, 1]]), max_history=3)


def test_opens_either_layout(dataset, tmp_path):
    dataset.save(tmp_path / "ours")
    save_minionerec(dataset, tmp_path / "theirs")
    assert open_dataset(tmp_path / "ours").max_history == 3
    assert open_dataset(tmp_path / "theirs").max_history == 10
    assert open_dataset(str(tmp_path / "theirs")).sid_index.sid_of("2") == dataset.sid_index.sid_of("2")


def test_refuses_both_and_neither(dataset, tmp_path):
    with pytest.raises(FileNotFoundError, match="Expected dataset.json in .* Check the path"):
        open_dataset(tmp_path)
    dataset.save(tmp_path)
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(ValueError, match="one layout in .* two SID indexes"):
        open_dataset(tmp_path)
