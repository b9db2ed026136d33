"""Create, upload, download into an empty cache, load with the package and without it, on a Hub of our own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from tsrec_hf import (
    PopularityPrior,
    TSRecForCausalLM,
    TSRecSFTConfig,
    TSRecSFTTrainer,
    TSRecTokenizer,
    build_model_card,
    build_sequence_rows,
)


HISTORIES = [["hammer", "nail"], ["apple"]]
WEIGHTS = {"config.json", "generation_config.json", "model.safetensors"}
TOKENIZER = {"tokenizer.json", "tokenizer_config.json", "sid_index.safetensors"}
ISLAND = {
    path.name
    for path in Path(sys.modules["tsrec_hf"].__file__).with_name("models").glob("*.py")
    # The decoder's own repository begins at the other one.
    if path.name not in ("__init__.py", "custom_generate_tsrec.py")
}
ENDPOINT = {"handler.py", "requirements.txt"}


def results_of(model, tokenizer):
    return [[list(item[:3]) for item in row] for row in model.recommend(tokenizer, HISTORIES, top_k=3)]


@pytest.mark.parametrize("first", ["model", "tokenizer"])
def test_model_and_tokenizer_send_everything_in_any_order(hub, model, tokenizer, first):
    model.model_card = str(build_model_card(model.config, tokenizer.sid_index, tags=["mine"]))
    for part in (model, tokenizer) if first == "model" else (tokenizer, model):
        part.push_to_hub("me/tiny")
    files = hub.repos["me/tiny"]["main"]
    assert set(files) == WEIGHTS | TOKENIZER | ISLAND | ENDPOINT | {"README.md"}
    card = files["README.md"].decode()
    assert 'TSRecForCausalLM.from_pretrained("me/tiny")' in card and "your-name" not in card and "- mine" in card
    loaded, loaded_tokenizer = TSRecForCausalLM.from_pretrained("me/tiny"), TSRecTokenizer.from_pretrained("me/tiny")
    assert results_of(loaded, loaded_tokenizer) == results_of(model, tokenizer)


def test_a_card_written_by_hand_stays(hub, model, tokenizer):
    model.model_card = str(build_model_card(model.config, tokenizer.sid_index))
    model.push_to_hub("me/tiny", tags=["asked"])
    assert "- asked" in hub.repos["me/tiny"]["main"]["README.md"].decode()
    mine = b"---\nlicense: mit\n---\n\n# Mine\n"
    hub.repos["me/tiny"]["main"]["README.md"] = mine
    model.push_to_hub("me/tiny")
    card = ModelCard(hub.repos["me/tiny"]["main"]["README.md"].decode())
    assert card.text.strip() == "# Mine" and card.data.license == "mit"


def test_the_card_of_a_folder_goes_along(hub, model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "saved"), tokenizer.save_pretrained(tmp_path / "saved")
    build_model_card(model.config, tokenizer.sid_index, name="from-folder").save(tmp_path / "saved" / "README.md")
    TSRecForCausalLM.from_pretrained(tmp_path / "saved").push_to_hub("me/tiny", revision="branch")
    assert "# from-folder" in hub.repos["me/tiny"]["branch"]["README.md"].decode()
    # Without any card transformers sends its empty form, as for every model.
    model.push_to_hub("me/other")
    assert "automatically generated" in hub.repos["me/other"]["main"]["README.md"].decode()


def test_what_is_read_from_a_folder_is_pushed_whole(hub, model, tokenizer, semantics, tmp_path):
    model.save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
    prior = PopularityPrior(tokenizer.sid_index, [3.0] + [1.0] * 7)
    tokenizer.set_prior(prior), tokenizer.save_pretrained(tmp_path)
    semantics.to_json(tmp_path / "description_keywords.json")
    (tmp_path / "training.png").write_bytes(b"picture")
    TSRecForCausalLM.from_pretrained(tmp_path).push_to_hub("me/tiny")
    whole = WEIGHTS | TOKENIZER | ISLAND | ENDPOINT | {"README.md", "item_prior.safetensors"}
    assert set(hub.repos["me/tiny"]["main"]) == whole | {"description_keywords.json", "training.png"}
    loaded_tokenizer = TSRecTokenizer.from_pretrained("me/tiny")
    loaded = TSRecForCausalLM.from_pretrained("me/tiny")
    assert results_of(loaded, loaded_tokenizer) == results_of(model, tokenizer)
    # From one repository to another, too.
    loaded.push_to_hub("me/copy")
    assert set(hub.repos["me/copy"]["main"]) >= whole | {"description_keywords.json"}


def test_a_folder_that_is_pushed_while_it_is_saved_is_whole(hub, model, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "saved")
    model.tokenizer = None
    model.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id="me/tiny")
    assert set(hub.repos["me/tiny"]["main"]) >= WEIGHTS | TOKENIZER | ISLAND


def test_weights_alone_are_refused(hub, model, tmp_path):
    model.tokenizer = None
    with pytest.raises(ValueError, match="Set `model.tokenizer = tokenizer`"):
        model.push_to_hub("me/tiny")
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Expected the tokenizer and its sid_index.safetensors"):
        TSRecForCausalLM.from_pretrained(tmp_path).push_to_hub("me/tiny")


@pytest.fixture
def trainer(model, tokenizer, dataset, tmp_path):
    def make(**settings):
        common = {"max_steps": 1, "report_to": "none", "use_cpu": True, "bf16": False, "disable_tqdm": True}
        args = TSRecSFTConfig(tmp_path / "run", push_to_hub=True, hub_model_id="tiny-run", **common, **settings)
        rows = build_sequence_rows(dataset.train, tokenizer)
        facts = {"dataset": dataset, "license": "mit"}
        return TSRecSFTTrainer(model, args, train_dataset=rows, processing_class=tokenizer, card_facts=facts)

    return make


def test_a_trainer_pushes_everything(hub, trainer):
    trainer = trainer(save_strategy="no")
    trainer.train()
    trainer.push_to_hub()
    files = hub.repos["me/tiny-run"]["main"]
    assert WEIGHTS | TOKENIZER | ISLAND | ENDPOINT | {"README.md"} <= set(files)
    card = ModelCard(files["README.md"].decode())
    assert "# tiny-run" in card.text and 'from_pretrained("me/tiny-run")' in card.text and card.data.license == "mit"
    assert json.loads(files["config.json"])["run_facts"]["stages"][0]["tasks"] == {"sequence": 3}
    assert TSRecForCausalLM.from_pretrained("me/tiny-run").config.run_facts["dataset"]["name"] == "tiny"


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint"])
def test_what_is_pushed_during_training_is_whole(hub, trainer, strategy):
    trainer(save_strategy="steps", save_steps=1, hub_strategy=strategy).train()
    files = hub.repos["me/tiny-run"]["main"]
    assert WEIGHTS | TOKENIZER | ISLAND | ENDPOINT | {"README.md"} <= set(files)
    assert b"# tiny-run" in files["README.md"]


STRANGER = """
import importlib.util, json, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tsrec_hf":
            raise ImportError("tsrec_hf is not installed here")

sys.meta_path.insert(0, Blocker())

from huggingface_hub import snapshot_download

folder = snapshot_download("me/tiny")
text = open(folder + "/README.md").read()
snippet = text.split("Without it")[1].split("```python")[1].split("```")[0]
names = {}
exec(snippet, names)
rows = names["model"].recommend(names["tokenizer"], json.loads(sys.argv[1]), top_k=3)

from transformers import pipeline

piped = pipeline(model=folder, trust_remote_code=True, device="cpu")(json.loads(sys.argv[1]), top_k=3)
spec = importlib.util.spec_from_file_location("handler", folder + "/handler.py")
handler = importlib.util.module_from_spec(spec)
spec.loader.exec_module(handler)
served = handler.EndpointHandler(folder)({"inputs": json.loads(sys.argv[1]), "parameters": {"top_k": 3}})
assert not any(name.split(".")[0] == "tsrec_hf" for name in sys.modules)
print(json.dumps([rows, served, piped]))
"""


def test_a_stranger_loads_it_without_the_package(hub, model, tokenizer, tmp_path):
    """As pasted from the card, and as an Inference Endpoint, in a process with an empty cache."""
    model.model_card = str(build_model_card(model.config, tokenizer.sid_index))
    model.push_to_hub("me/tiny")
    # Whoever pastes the card's snippet passes `trust_remote_code=True`; the endpoint's owner says it here.
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    env = {**env, "HF_TRUST_REMOTE_CODE": "1", "PYTHONPATH": ""}
    env = {**{k: v for k, v in os.environ.items() if not k.startswith("HF_")}, **env}
    command = [sys.executable, "-c", STRANGER, json.dumps(HISTORIES)]
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    rows, served, piped = json.loads(run.stdout.splitlines()[-1])
    expected = results_of(model, tokenizer)
    assert [[item[:3] for item in row] for row in rows] == expected
    assert [[[item["item_id"], item["sid"], item["score"]] for item in row] for row in served] == expected
    assert piped == served
