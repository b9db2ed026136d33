"""
The page on migration, block by block and command by command, on small folders in the form of others' repositories: a
Qwen2 as MiniOneRec leaves it, and a Llama with a LoRA adapter and whole embeddings as LC-Rec does.
"""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import tsrec_hf


ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(python|bash)\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def tokenizer_of_bytes(texts: list[str]) -> PreTrainedTokenizerFast:
    """Pairs of bytes, as Qwen2's tokenizer has them and Llama 3's."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"])
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


@pytest.fixture
def their_model(request, dataset):
    """A random model whose vocabulary has grown by the SID tokens, in their sorted order, and its tokenizer."""
    builders = next(
        plugin for plugin in request.config.pluginmanager.get_plugins() if hasattr(plugin, "make_backbone_tokenizer")
    )

    def make(kind: str):
        tokenizer = tokenizer_of_bytes(dataset.items["title"][:])
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(builders.BACKBONES[kind](len(tokenizer), False))
        tokenizer.add_tokens(sorted(token for level in dataset.sid_index.tokens for token in level))
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
        return model, tokenizer

    return make


def index_of(dataset) -> dict[str, list[str]]:
    """Item id to SID tokens, as both write it."""
    index = dataset.sid_index
    return {item: [*re.findall(r"<\w+>", index.sid_of(item))] for item in index.item_ids}


def save_minionerec_repository(root: Path, dataset, model, tokenizer) -> None:
    tsrec_hf.save_minionerec(dataset, root / "flat")
    for split in ("train", "valid", "test"):
        folder = root / "data" / "Amazon" / split
        folder.mkdir(parents=True)
        (root / "flat" / f"{split}.csv").rename(folder / "Industrial_and_Scientific_5_2016-10-2018-11.csv")
    (root / "data/Amazon/index").mkdir()
    for kind in ("index", "item"):
        (root / "flat" / f"{kind}.json").rename(root / f"data/Amazon/index/Industrial_and_Scientific.{kind}.json")
    model.save_pretrained(root / "output" / "final_checkpoint")
    tokenizer.save_pretrained(root / "output" / "final_checkpoint")


def save_lcrec_repository(root: Path, dataset, model, tokenizer) -> None:
    data, checkpoint = root / "data" / "Scientific", root / "ckpt" / "Scientific"
    data.mkdir(parents=True)
    number_of = {item: str(number) for number, item in enumerate(dataset.sid_index.item_ids)}
    items = {number_of[one["item_id"]]: {"title": one["title"]} for one in dataset.items}
    index = {number_of[item]: tokens for item, tokens in index_of(dataset).items()}
    sequences = {str(user): [(user + step) % 8 for step in range(6)] for user in range(8)}
    for kind, content in {"item": items, "index": index, "inter": sequences}.items():
        (data / f"Scientific.{kind}.json").write_text(json.dumps(content))
    model.save_pretrained(root / "base")
    model = AutoModelForCausalLM.from_pretrained(root / "base")  # an adapter names what it was made on
    whole = ["embed_tokens", "lm_head"]
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], modules_to_save=whole, r=4))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(checkpoint)
    model.config.save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)


def run_commands(block: str, monkeypatch) -> None:
    """Scripts run in this process, all else in a shell."""
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line)
        if words[0] != "python":
            subprocess.run(["bash", "-euc", line], check=True)
            continue
        monkeypatch.setattr(sys, "argv", words[1:])
        runpy.run_path(str(ROOT / words[1]), run_name="__main__")


@pytest.mark.slow
def test_the_page_from_top_to_bottom(their_model, dataset, datasets_cache, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for variable, value in {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(variable, value)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    qwen, its_tokenizer = their_model("qwen2")
    save_minionerec_repository(tmp_path / "MiniOneRec", dataset, qwen, its_tokenizer)
    save_lcrec_repository(tmp_path / "LC-Rec", dataset, *their_model("llama"))

    names: dict = {}
    for number, (language, block) in enumerate(BLOCKS, start=1):
        if language == "python":
            exec(compile(block, f"migration.md, block {number}", "exec", dont_inherit=True), names)
        else:
            run_commands(block, monkeypatch)
        if "outputs/minionerec" in block and language == "python":
            check_taken_over(names["model"], names["tokenizer"], qwen, its_tokenizer)
    printed = capsys.readouterr().out
    assert "| MiniOneRec | " in printed and "model and prior" in printed
    assert "RecommendationDataset(name='Scientific', items=8" in printed
    check_merged(tmp_path)
    assert {"train.csv", "item.json", "index.json"} <= set(os.listdir("outputs/as_minionerec"))
    back = AutoModelForCausalLM.from_pretrained("outputs/plain")
    assert back.config.model_type == "llama"


def check_taken_over(model, tokenizer, theirs, their_tokenizer) -> None:
    """Rows, token ids and logits are theirs."""
    text = "hand saw <a_0><b_1><c_0>"
    ids = their_tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    assert tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids.equal(ids)
    with torch.no_grad():
        assert torch.equal(model(ids).logits[..., : len(their_tokenizer)], theirs(ids).logits)
    assert model.config.sid_initialization == {"pooling": "kept"}


def check_merged(folder: Path) -> None:
    """The adapter of LC-Rec, its embeddings and its head are in what was taken over."""
    from peft import AutoPeftModelForCausalLM

    theirs = AutoPeftModelForCausalLM.from_pretrained(folder / "LC-Rec/ckpt/Scientific")
    ours, tokenizer = tsrec_hf.load_recommender(folder / "outputs/lcrec")
    ids = tokenizer("hand saw <a_0><b_1><c_0>", return_tensors="pt", add_special_tokens=False).input_ids
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-5, rtol=1e-5)
