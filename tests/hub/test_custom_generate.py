"""The tree decoder as a repository of `generate(custom_generate=...)`, without the package too."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

from tsrec_hf import NextItemPrior, PromptBuilder, export_backbone, export_custom_generate
from tsrec_hf.cli import main


HISTORIES = [["hammer", "nail", "saw"], ["apple"]]
TRUSTED = {"trust_remote_code": True}


@pytest.fixture(scope="module", autouse=True)
def _remote_code(tmp_path_factory):
    """Remote code goes to a folder of these tests; Python remembers the one that it first imported from."""

    def forget():
        for name in [name for name in sys.modules if name.split(".")[0] == "transformers_modules"]:
            del sys.modules[name]

    folder = str(tmp_path_factory.mktemp("modules"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", folder)
        patched.setattr(sys, "path", [folder, *sys.path])
        forget()
        yield
        forget()


@pytest.fixture
def decoder(tokenizer, dataset, tmp_path):
    tokenizer.set_prior(NextItemPrior.fit(dataset.train, tokenizer.sid_index))
    return export_custom_generate(tokenizer, tmp_path / "decoder")


@pytest.fixture
def inputs(tokenizer):
    prompts = [PromptBuilder(tokenizer).sequence_prompt(history) for history in HISTORIES]
    return tokenizer(prompts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt")


def test_a_plain_model_finds_the_recommenders_lists(model, tokenizer, decoder, inputs, tmp_path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(export_backbone(model, tmp_path / "plain", tokenizer))
    settings = {"custom_generate": str(decoder), **TRUSTED, "sid_tokenizer": tokenizer, "num_sids": 7}
    settings["return_dict_in_generate"] = True
    for one in (plain, model):
        found = one.generate(**inputs, sid_scoring="catalogue", **settings)
        lists = model.recommend(tokenizer, HISTORIES, top_k=8, prior=None)
        expected = [list(dict.fromkeys((item.sid, item.score) for item in items)) for items in lists]
        sids = ["".join(tokenizer.convert_ids_to_tokens(row[-3:])) for row in found.sequences]
        assert [sids[:7], sids[7:]] == [[sid for sid, _ in items] for items in expected]
        scores = torch.tensor([[score for _, score in items] for items in expected]).flatten()
        torch.testing.assert_close(found.sequences_scores, scores, atol=1e-4, rtol=0)
        # Prompts may be `generate`'s first argument.
        first = one.generate(inputs.input_ids, attention_mask=inputs.attention_mask, **settings)
        assert torch.equal(first.sequences, one.generate(**inputs, **settings).sequences)


def test_it_is_the_search_with_a_grammar(model, tokenizer, decoder, inputs, tmp_path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(export_backbone(model, tmp_path / "plain", tokenizer))
    width, sids = inputs.input_ids.shape[1], tokenizer.encode_sids(tokenizer.sid_index.item_ids)

    def children(_, ids):
        start = ids[width:].tolist()
        return sorted({sid[len(start)] for sid in sids if sid[: len(start)] == start})

    constrained = plain.generate(
        **inputs,
        num_beams=5,
        num_return_sequences=4,
        length_penalty=0.0,
        max_new_tokens=3,
        eos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
        prefix_allowed_tokens_fn=children,
    )
    settings = {"custom_generate": str(decoder), **TRUSTED, "sid_tokenizer": tokenizer}
    assert torch.equal(plain.generate(**inputs, num_sids=4, num_sid_beams=5, **settings), constrained)


def test_it_loads_by_its_name_on_the_hub(hub, model, tokenizer, decoder, inputs, tmp_path) -> None:
    HfApi().create_repo("me/decoder")
    HfApi().upload_folder(repo_id="me/decoder", folder_path=decoder)
    plain = AutoModelForCausalLM.from_pretrained(export_backbone(model, tmp_path / "plain", tokenizer))
    settings = {**TRUSTED, "sid_tokenizer": tokenizer, "num_sids": 4}
    expected = plain.generate(**inputs, custom_generate=str(decoder), **settings)
    assert torch.equal(plain.generate(**inputs, custom_generate="me/decoder", **settings), expected)


def test_what_the_folder_holds(tokenizer, decoder) -> None:
    card = ModelCard.load(decoder / "README.md")
    assert card.data.library_name == "transformers" and "custom_generate" in card.data.tags
    assert "8 items" in card.text and "7 SIDs" in card.text
    names = {path.name for path in decoder.iterdir()}
    assert (
        names >= {"sid_index.safetensors", "tokenizer.json", "tokenization_tsrec.py"}
        and "prior.safetensors" not in names
    )
    assert tokenizer.prior is not None
    code = {path.name for path in (decoder / "custom_generate").iterdir()}
    # The decoder and nothing of the model, training or prompts.
    assert {"generate.py", "search_tsrec.py", "requirements.txt"} <= code
    assert not code & {"modeling_tsrec.py", "sa_init.py", "prompting_tsrec.py", "tokenization_tsrec.py"}


WITHOUT_THE_PACKAGE = """
import sys


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tsrec_hf":
            raise ImportError("tsrec_hf is not installed here")


sys.meta_path.insert(0, Blocker())
"""


def test_the_cards_example_runs_without_the_package(model, tokenizer, tmp_path) -> None:
    export_backbone(model, tmp_path / "plain", tokenizer)
    folder = export_custom_generate(tokenizer, tmp_path / "decoder", "decoder", "plain")
    [example] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    script = tmp_path / "script.py"
    script.write_text(WITHOUT_THE_PACKAGE + example)
    run = subprocess.run(
        [sys.executable, "-I", str(script)],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    history = tokenizer.sid_index.item_ids[:2]
    expected = model.recommend(tokenizer, [history], top_k=8, scoring="vocabulary")[0]
    found = re.findall(r"(\S+)  (<\S+>)  (\[.*\])", run.stdout)
    assert [sid for _, sid, _ in found] == list(dict.fromkeys(item.sid for item in expected))[:5]
    assert json.loads(found[0][2].replace("'", '"'))[0] == expected[0].item_id


def test_errors(model, tokenizer, decoder, inputs, backbone_dir, tmp_path) -> None:
    settings = {"custom_generate": str(decoder), **TRUSTED}
    plain = AutoModelForCausalLM.from_pretrained(backbone_dir)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        plain.generate(**inputs, custom_generate=str(decoder), trust_remote_code=False)
    with pytest.raises(ValueError, match="Expected `sid_tokenizer`"):
        plain.generate(**inputs, **settings)
    with pytest.raises(ValueError, match="with rows for the SID tokens, whose ids end at .*`export_backbone`"):
        plain.generate(**inputs, **settings, sid_tokenizer=tokenizer)
    with pytest.raises(ValueError, match="Pass `num_sid_beams=5`"):
        model.generate(**inputs, **settings, sid_tokenizer=tokenizer, num_beams=5)
    with pytest.raises(ValueError, match="Expected prompts as `input_ids`"):
        model.generate(**settings, sid_tokenizer=tokenizer)
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="holds a model, whose `generate` transformers would replace"):
        export_custom_generate(tokenizer, tmp_path / "model")


def test_the_command_writes_both(model, tokenizer, tmp_path, capsys) -> None:
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "sft")
    words = [
        "--model_name_or_path",
        tmp_path / "sft",
        "--output_dir",
        tmp_path / "plain",
        "--decoder_dir",
        tmp_path / "d",
    ]
    assert main(["export", *map(str, words)]) == 0
    assert (tmp_path / "d" / "custom_generate" / "generate.py").is_file()
    loaded = AutoTokenizer.from_pretrained(tmp_path / "d")
    assert len(capsys.readouterr().out.splitlines()) == 2 and len(loaded) == len(tokenizer)
