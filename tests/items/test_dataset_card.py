"""A prepared data set goes to a repository and comes back, by `datasets` as by the package."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard, HfApi

from tsrec_hf import RecommendationDataset
from tsrec_hf.items import build_dataset_card
from tsrec_hf.items import dataset as dataset_module


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """A folder in the place of the Hub's repository."""
    folder = tmp_path / "repository"

    def upload_folder(self, repo_id, folder_path, repo_type, commit_message):
        assert repo_type == "dataset"
        shutil.copytree(folder_path, folder, dirs_exist_ok=True)
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}")

    monkeypatch.setattr(HfApi, "create_repo", lambda self, *args, **kwargs: None)
    monkeypatch.setattr(HfApi, "file_exists", lambda self, repo, name, repo_type: (folder / name).exists())
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(dataset_module, "snapshot_download", lambda *args, **kwargs: str(folder))
    return folder


def test_what_is_pushed_is_loaded_back(dataset, repository, tmp_path):
    assert dataset.push_to_hub("me/tools", license="mit") == "https://hub/me/tools"
    cache = str(tmp_path / "cache")
    rows = load_dataset(str(repository), "interactions", cache_dir=cache)
    assert {split: rows[split].to_list() for split in rows} == {
        "train": dataset.train.to_list(),
        "validation": dataset.valid.to_list(),
        "test": dataset.test.to_list(),
    }
    items = load_dataset(str(repository), "items", split="train", cache_dir=cache)
    assert items.to_list() == dataset.items.to_list()
    loaded = RecommendationDataset.from_hub("me/tools")
    assert loaded.sid_index == dataset.sid_index and loaded.train.to_list() == dataset.train.to_list()


def test_a_card_written_by_hand_stays(dataset, repository):
    dataset.push_to_hub("me/tools")
    (repository / "README.md").write_text("# Mine")
    dataset.push_to_hub("me/tools")
    assert (repository / "README.md").read_text() == "# Mine"


def test_the_card_tells_what_is_there(dataset):
    card = build_dataset_card(dataset, "me/tools", license="mit", tags=["mine"])
    assert isinstance(card, DatasetCard) and card.data.tags == ["tsrec", "recommendation", "mine"]
    assert "| items | 8 |" in card.text and "| train | 6 |" in card.text and dataset.sid_index.fingerprint in card.text
    assert 'RecommendationDataset.from_hub("me/tools")' in card.text
