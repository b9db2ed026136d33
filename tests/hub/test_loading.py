"""Reading recommenders and adapters."""

import subprocess
import sys

import pytest
from peft import LoraConfig, get_peft_model

from tsrec_hf.hub import is_recommender, load_or_start_recommender, load_recommender
from tsrec_hf.models import SIDIndex


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


def test_another_catalogue_is_refused(checkpoint, sid_index):
    assert load_recommender(checkpoint, sid_index=sid_index)[1].sid_index.fingerprint == sid_index.fingerprint
    other = SIDIndex(["a", "b"], [[0, 1], [1, 0]])
    for load in (
        lambda: load_recommender(checkpoint, sid_index=other),
        lambda: load_or_start_recommender(checkpoint, other),
    ):
        with pytest.raises(ValueError, match="the data have another index"):
            load()


def test_a_backbone_starts_with_sa_init_and_the_history_of_the_data(backbone_dir, sid_index, semantics):
    model, tokenizer = load_or_start_recommender(
        backbone_dir, sid_index, semantics, {"pooling": "mean"}, max_history=30
    )
    assert model.config.sid_initialization["pooling"] == "mean" and tokenizer.max_history == 30
    plain, _ = load_or_start_recommender(backbone_dir, sid_index, sa_init_kwargs={"pooling": "mean"})
    assert plain.config.sid_initialization == {"pooling": "resize"}
