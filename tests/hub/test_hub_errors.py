"""What the Hub refuses reaches the caller in the Hub's own words, for the model, the tokenizer and its index."""

import pytest
import transformers
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RevisionNotFoundError
from packaging import version

from tsrec_hf import TSRecForCausalLM, TSRecTokenizer


@pytest.fixture
def repo(hub, model, tokenizer):
    model.push_to_hub("me/tiny"), tokenizer.push_to_hub("me/tiny")
    return "me/tiny"


LOADERS = [TSRecForCausalLM, TSRecTokenizer]


@pytest.mark.skipif(
    version.parse(transformers.__version__) < version.parse("5.22"), reason="transformers takes it for a missing file"
)
@pytest.mark.parametrize("loader", LOADERS)
def test_gated(hub, repo, loader):
    hub.gated.add(repo)
    with pytest.raises(GatedRepoError, match="Access to model me/tiny is restricted: ask its authors") as caught:
        loader.from_pretrained(repo, token=False)
    # The Hub's error is no cause of itself: whoever walks along the chain comes to an end.
    assert caught.value.__cause__ is not caught.value and not isinstance(caught.value.__context__, GatedRepoError)
    assert isinstance(caught.value, OSError)  # as transformers' own errors are
    assert loader.from_pretrained(repo, token="hf_test") is not None


@pytest.mark.parametrize("loader", LOADERS)
def test_unknown_revision(repo, loader):
    with pytest.raises(RevisionNotFoundError, match="Invalid rev id: v9"):
        loader.from_pretrained(repo, revision="v9")


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("how", ["offline", "local_files_only"])
def test_offline_with_an_empty_cache(repo, loader, how, monkeypatch):
    if how == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(LocalEntryNotFoundError, match="(?i)cannot find the requested files in the .*cache"):
        loader.from_pretrained(repo, **({} if how == "offline" else {"local_files_only": True}))


def test_offline_with_what_was_downloaded(repo, monkeypatch):
    TSRecForCausalLM.from_pretrained(repo), TSRecTokenizer.from_pretrained(repo)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model, tokenizer = TSRecForCausalLM.from_pretrained(repo), TSRecTokenizer.from_pretrained(repo)
    assert model.recommend(tokenizer, [["nail"]], top_k=1)


def test_an_index_that_was_not_downloaded_is_no_missing_index(repo, hub, monkeypatch):
    index = hub.repos[repo]["main"].pop("sid_index.safetensors")
    with pytest.raises(FileNotFoundError, match="Expected 'sid_index.safetensors' beside the tokenizer in 'me/tiny'"):
        TSRecTokenizer.from_pretrained(repo)
    hub.repos[repo]["main"]["sid_index.safetensors"] = index
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(LocalEntryNotFoundError):
        TSRecTokenizer.from_pretrained(repo)


def test_other_errors_keep_the_words_of_transformers(repo, tmp_path):
    with pytest.raises(OSError, match="is not a local folder and is not a valid model identifier"):
        TSRecForCausalLM.from_pretrained("me/nothing")
    with pytest.raises(ValueError, match="Expected `config.json` of a recommender.*found none"):
        TSRecForCausalLM.from_pretrained(tmp_path)
