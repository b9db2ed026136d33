"""From two tables to a recommender, in one call, and what a second call does again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file, save_file

from tsrec_hf.cli import main
from tsrec_hf.items import load_table, open_dataset
from tsrec_hf.models import TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.recipes import Recommender, from_tables
from tsrec_hf.recipes.raw_data import FOLDERS
from tsrec_hf.recipes.stages import Stages
from tsrec_hf.trainers import TSRecSFTTrainer


sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs the extra `sids`")
pytest.importorskip("faiss", reason="needs the extra `sids`")
pytest.importorskip("sklearn", reason="needs the extra `keywords`")
from sentence_transformers.sentence_transformer.modules import BoW  # noqa: E402


KINDS, THINGS = "red green hard sharp steel".split(), "hammer nail screw saw apple pear bread cheese".split()


@pytest.fixture
def shop(tmp_path: Path, backbone_dir) -> dict:
    """40 items and 30 users as data frames with integer ids and dates, and tiny models."""
    titles = [f"{kind} {thing}" for kind in KINDS for thing in THINGS]
    draw = np.random.default_rng(0)
    rows = [
        (user, item, f"{day + 1:02}/03/2024 {user % 24:02}:15")
        for user in range(30)
        for day, item in enumerate(draw.choice(len(titles), size=8, replace=False))
    ]
    sentence_transformers.SentenceTransformer(modules=[BoW([*KINDS, *THINGS])], device="cpu").save(
        str(tmp_path / "encoder")
    )
    return {
        "items": pd.DataFrame({"item_id": range(len(titles)), "title": titles}),
        "interactions": pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]),
        "output_dir": tmp_path / "shop",
        "timestamp_format": "%d/%m/%Y %H:%M",
        "encoder": str(tmp_path / "encoder"),
        "model_name_or_path": backbone_dir,
        "minutes": 0,
        "num_test_rows": 10,
    }


def test_the_card_names_the_model_that_a_part_was_taken_of(shop, backbone_dir, datasets_cache, monkeypatch) -> None:
    del shop["model_name_or_path"]
    monkeypatch.setattr(from_tables, "smollm2_from_wheel", lambda: (backbone_dir, {}))
    monkeypatch.setattr(from_tables, "CPU_LAYERS", 1)
    monkeypatch.setattr(from_tables, "CPU_TOKENS", None)
    Recommender.from_tables(**shop)
    assert ModelCard.load(shop["output_dir"] / "README.md").data.base_model == from_tables.SMOLLM2_ID


def test_one_call_and_a_second_one(shop, datasets_cache, capsys, monkeypatch) -> None:
    folder = shop["output_dir"]
    recommender = Recommender.from_tables(**shop)
    printed = capsys.readouterr().out
    stages = ["Data", "Semantic IDs", "Training", "Trained", "Prior", "Evaluation", "Done"]
    assert [line.split("] ")[1].split(":")[0] for line in printed.splitlines() if line.startswith("[")] == stages
    assert "| popularity |" in printed and len(recommender.recommend([["1", "2"]], top_k=5)[0]) == 5
    dataset = open_dataset(folder / "data")
    # Twice as many SIDs as items; 30 rows of a user each are 48 steps, which a warm-up of 20 would waste.
    assert len(dataset.sid_index) == 40 and dataset.sid_index.num_levels == 2 and dataset.max_history == 8
    assert {path.name for path in folder.iterdir()} >= {
        *("README.md", "config.json", "metrics.json", "model.safetensors", "description_keywords.json", "data"),
        "stages.json",
    }
    card = ModelCard.load(folder / "README.md")
    assert f"# {folder.name}" in card.text
    assert (
        "test" in {result.dataset_split for result in card.data.eval_results} and "| warmup_steps | 3 |" in card.text
    )
    assert json.loads((folder / "metrics.json").read_text())["settings"]["rows"] == "10 of 21, drawn with seed 0"

    weights = (folder / "model.safetensors").read_bytes()
    Recommender.from_tables(**shop)
    assert capsys.readouterr().out.count("as before") == 4 and (folder / "model.safetensors").read_bytes() == weights
    # More rows to test on: only that is done again.
    Recommender.from_tables(**{**shop, "num_test_rows": 12})
    printed = capsys.readouterr().out
    assert printed.count("as before") == 3 and "12 of 21 test rows" in printed
    # Other tables: everything.
    Recommender.from_tables(**{**shop, "interactions": shop["interactions"][:-8]})
    assert "as before" not in capsys.readouterr().out

    loaded = Recommender.from_pretrained(folder)
    assert loaded.semantics is not None and list(loaded.evaluate(num_rows=5).results)[0] == "popularity"
    assert main(["recommend", "--model_name_or_path", str(folder), "--history", "1", "2", "--top_k", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 3

    sent: list = []
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **kwargs: f"https://hub/{repo_id}")
    monkeypatch.setattr(HfApi, "upload_file", lambda self, **kwargs: sent.append(kwargs["path_in_repo"]))
    for kind in (TSRecForCausalLM, TSRecTokenizer):
        monkeypatch.setattr(kind, "push_to_hub", lambda self, repo_id, **kwargs: sent.append(type(self).__name__))
    assert main(["push", "--model_name_or_path", str(folder), "--repo_id", "me/shop"]) == 0
    assert capsys.readouterr().out.strip() == "https://hub/me/shop"
    assert sent == ["TSRecForCausalLM", "TSRecTokenizer", "description_keywords.json"]


def test_a_training_that_is_cut_off_takes_the_later_stages_along(shop, datasets_cache, capsys, monkeypatch) -> None:
    folder = shop["output_dir"]
    Recommender.from_tables(**shop)
    with monkeypatch.context() as patch:
        patch.setattr(TSRecSFTTrainer, "train", lambda self, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Recommender.from_tables(**shop, num_layers=1)
    capsys.readouterr()
    # The first options again: the model is trained anew, and so its card and its prior are new ones too.
    recommender = Recommender.from_tables(**shop)
    assert capsys.readouterr().out.count("as before") == 1
    assert ModelCard.load(folder / "README.md").data.eval_results
    fusion = TSRecTokenizer.from_pretrained(folder).prior_fusion
    assert (fusion is None) == (recommender.tokenizer.prior_fusion is None)


def test_a_fresh_run_that_is_cut_off_leaves_no_stage_done(tmp_path) -> None:
    Stages(tmp_path).finish("training", "1234")
    Stages(tmp_path, fresh=True).begin("data")
    assert not Stages(tmp_path).is_done("training", "1234", [])


def test_other_weights_and_more_minutes_count_as_other_inputs(
    shop, tmp_path, datasets_cache, capsys, monkeypatch
) -> None:
    for name in ("_fit_prior", "_evaluate"):
        monkeypatch.setattr(from_tables, name, lambda *args: None)
    # A machine so slow that training ends after a step.
    monkeypatch.setattr(from_tables, "_seconds_for_training", lambda *args: 0.0)

    def as_before(**options) -> list[str]:
        Recommender.from_tables(**{**shop, **options})
        lines = [line.split("] ")[1] for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
        return [line.split(":")[0] for line in lines if "as before" in line]

    assert as_before(minutes=2) == [] and as_before(minutes=2) == as_before(minutes=1) == ["Data", "Training"]
    monkeypatch.setattr(from_tables, "_seconds_for_training", lambda *args: None)
    assert as_before(minutes=3) == ["Data"]
    # All steps were done.
    assert as_before(minutes=0) == ["Data", "Training"]

    monkeypatch.setattr(from_tables, "_seconds_for_training", lambda *args: 0.0)
    shop["model_name_or_path"] = str(shutil.copytree(shop["model_name_or_path"], tmp_path / "backbone"))
    # The same weights in another folder are no other input.
    assert as_before() == ["Data", "Training"]
    weights = tmp_path / "backbone" / "model.safetensors"
    save_file({name: 0.5 * tensor for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    assert as_before() == ["Data"]
    modules = [BoW([*THINGS, *KINDS])]
    sentence_transformers.SentenceTransformer(modules=modules, device="cpu").save(shop["encoder"])
    assert as_before() == []


def test_untitled_items_that_are_kept_are_embedded_and_described(shop, datasets_cache, capsys, monkeypatch) -> None:
    modules = [BoW([*THINGS, *KINDS, "untitled"])]
    sentence_transformers.SentenceTransformer(modules=modules, device="cpu").save(shop["encoder"])
    shop["items"].loc[:3, "title"] = ""
    monkeypatch.setattr(from_tables, "_train", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Recommender.from_tables(**shop, untitled="keep")
    assert "4 items have no text" in capsys.readouterr().out
    dataset = open_dataset(shop["output_dir"] / "data")
    assert len(dataset.sid_index) == 40 and dataset.items["title"][:5] == ["", "", "", "", "red apple"]


@pytest.mark.parametrize("form", [*FOLDERS, "lcrec"])
def test_a_folder_of_items_and_interactions_is_all_that_is_named(form, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "both").mkdir()
    words = ["train", "--items", str(tmp_path / "both"), "--format", form, "--output_dir", str(tmp_path / "out")]
    # What the folders hold is read by the tests of the readers.
    monkeypatch.setattr(from_tables, "_prepare", lambda run, fingerprint: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main([*words, "--traceback"])
    with pytest.raises(ZeroDivisionError):
        Recommender.from_tables(tmp_path / "both", output_dir=tmp_path / "out", format=form)


def test_an_option_that_does_not_exist(shop) -> None:
    with pytest.raises(ValueError, match=r"options of `tsrec train`, but found \['epochs'\]"):
        Recommender.from_tables(**shop, epochs=3)


def test_data_frames_are_tables(shop) -> None:
    log = load_table(shop["interactions"], shop["items"], timestamp_format=shop["timestamp_format"])
    assert log.items[0] == {"item_id": "0", "title": "red hammer", "description": ""}
    assert log.interactions[0]["timestamp"] == pd.Timestamp("2024-03-01 00:15").timestamp()
    dated = shop["interactions"].assign(
        timestamp=pd.to_datetime(shop["interactions"]["timestamp"], format="%d/%m/%Y %H:%M")
    )
    assert load_table(dated, shop["items"]).interactions[:] == log.interactions[:]
    with pytest.raises(
        ValueError, match="'%Y.%m.%d' .`--timestamp_format`. has them, but row 1 has '01/03/2024 00:15'"
    ):
        load_table(shop["interactions"], shop["items"], timestamp_format="%Y.%m.%d")
