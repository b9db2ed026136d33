"""Reading recommenders and adapters."""

import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset
from peft import LoraConfig, get_peft_model

from tsrec_hf.data import build_sequence_rows
from tsrec_hf.hub import is_recommender, load_or_start_recommender, load_recommender
from tsrec_hf.models import SIDIndex
from tsrec_hf.trainers import TSRecSFTConfig, TSRecSFTTrainer


@pytest.fixture
def checkpoint(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "recommender")
    tokenizer.save_pretrained(tmp_path / "recommender")
    return tmp_path / "recommender"


def test_reading_an_adapter_imports_no_trl(checkpoint, tokenizer, tmp_path):
    model, _ = load_recommender(checkpoint)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    script = (
        "import sys\nfrom tsrec_hf import load_recommender\n"
        f"model, tokenizer = load_recommender({str(tmp_path / 'adapter')!r})\n"
        "assert not hasattr(model, 'peft_config') and 'peft' in sys.modules\n"
        "assert 'trl' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_language_model_is_no_recommender(backbone_dir, checkpoint):
    assert is_recommender(checkpoint) and not is_recommender(backbone_dir)
    with pytest.raises(ValueError, match="type 'llama'.*`examples/sft.py`"):
        load_recommender(backbone_dir)


def test_a_folder_in_a_folder(checkpoint, backbone_dir, sid_index, tokenizer):
    expected, _ = load_recommender(checkpoint)
    model, theirs = load_recommender(checkpoint.parent, subfolder=checkpoint.name)
    histories = [["hammer", "nail"]]
    assert model.recommend(theirs, histories, top_k=4) == expected.recommend(tokenizer, histories, top_k=4)
    goes_on, _ = load_or_start_recommender(checkpoint.parent, sid_index, subfolder=checkpoint.name)
    assert goes_on.config.sid_index_fingerprint == sid_index.fingerprint
    backbone = Path(backbone_dir)
    started, _ = load_or_start_recommender(backbone.parent, sid_index, subfolder=backbone.name)
    assert started.config.sid_initialization == {"pooling": "resize"}


def test_another_catalogue_is_refused(checkpoint, sid_index):
    assert load_recommender(checkpoint, sid_index=sid_index)[1].sid_index.fingerprint == sid_index.fingerprint
    other = SIDIndex(["a", "b"], [[0, 1], [1, 0]])
    for load in (
        lambda: load_recommender(checkpoint, sid_index=other),
        lambda: load_or_start_recommender(checkpoint, other),
    ):
        with pytest.raises(ValueError, match="the data have another index"):
            load()


@pytest.mark.parametrize("adapter", [False, True])
def test_a_grown_catalogue_is_trained_on(checkpoint, sid_index, tokenizer, tmp_path, adapter):
    grown = sid_index.with_items(["chisel"], [[0, 0, 0]], titles=["wood chisel"])
    grown.save(tmp_path / "grown.safetensors")
    folder = checkpoint
    if adapter:
        folder = tmp_path / "adapter"
        get_peft_model(load_recommender(checkpoint)[0], LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(
            folder
        )
        tokenizer.save_pretrained(folder)
    model, found = load_or_start_recommender(folder, SIDIndex.load(tmp_path / "grown.safetensors"))
    assert found.sid_index.fingerprint == grown.fingerprint
    model.check_tokenizer(found)
    args = TSRecSFTConfig(
        str(tmp_path / "out"), max_steps=1, report_to="none", bf16=False, use_cpu=True, disable_tqdm=True
    )
    interactions = Dataset.from_dict({"user_id": ["a"], "history": [["hammer", "nail"]], "target": ["chisel"]})
    rows = build_sequence_rows(interactions, found)
    trainer = TSRecSFTTrainer(model, args, train_dataset=rows, processing_class=found)
    trainer.train()
    trainer.save_model()
    again, theirs = load_recommender(tmp_path / "out", sid_index=grown)
    assert theirs.sid_index.fingerprint == grown.fingerprint
    [items] = again.recommend(theirs, [["hammer", "chisel"]], top_k=9)
    assert "chisel" in [item.item_id for item in items]
    # Not the other way round: what has learned of more items is another recommender.
    with pytest.raises(ValueError, match="the data have another index"):
        load_recommender(tmp_path / "out", sid_index=sid_index)


def test_a_backbone_starts_with_sa_init_and_the_history_of_the_data(backbone_dir, sid_index, semantics):
    model, tokenizer = load_or_start_recommender(
        backbone_dir, sid_index, semantics, {"pooling": "mean"}, max_history=30
    )
    assert model.config.sid_initialization["pooling"] == "mean" and tokenizer.max_history == 30
    plain, _ = load_or_start_recommender(backbone_dir, sid_index, sa_init_kwargs={"pooling": "mean"})
    assert plain.config.sid_initialization == {"pooling": "resize"}


def test_a_gguf_file_starts_a_recommender(backbone_dir, sid_index):
    with pytest.raises(OSError, match="no.gguf"):
        load_or_start_recommender(backbone_dir, sid_index, gguf_file="no.gguf")
