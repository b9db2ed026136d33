"""Facts in, card out."""

import ast
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

import tsrec_hf
from tsrec_hf import SIDIndex, TSRecConfig, build_model_card
from tsrec_hf.hub import add_evaluation, dataset_facts
from tsrec_hf.models.configuration_tsrec import UNNAMED_REPO
from tsrec_hf.models.modeling_tsrec import GENERATED_CARDS


CARDS = Path(__file__).parents[2] / "model_cards"


def metrics(hr, ndcg, sid_hr=None, rows=40):
    found = {"num_rows": rows, "hr@5": hr / 2, "hr@10": hr, "ndcg@5": ndcg / 2, "ndcg@10": ndcg}
    return found if sid_hr is None else {**found, "sid_hr@10": sid_hr}


@pytest.fixture
def evaluation():
    return {
        "settings": {"dataset": "Toy Store", "split": "test", "rows": "40 of test", "search": "beam", "num_beams": 50},
        "results": {
            "model": {
                "all": metrics(0.5, 0.25, 0.625),
                "cold": metrics(0.125, 0.0625, rows=8),
                "new": {"num_rows": 0},
            },
            "popularity": {"all": metrics(0.25, 0.125, 0.375)},
            "counts|next": {"all": metrics(0.5, 0.375, 0.5)},
        },
    }


def test_metrics_stand_beside_the_baselines(model, sid_index, evaluation):
    card = build_model_card(model.config, sid_index, "me/toy", evaluations=[evaluation])
    for line in (
        "### Toy Store, test",
        "Rows: 40 of test. Decoding: search beam, num_beams 50.",
        "|  | HR@5 | HR@10 | NDCG@5 | NDCG@10 |",
        "| model, by item | 0.2500 | 0.5000 | 0.1250 | 0.2500 |",
        "| model, by SID | - | 0.6250 | - | - |",
        "| popularity, by item | 0.1250 | 0.2500 | 0.0625 | 0.1250 |",
        r"| counts\|next, by SID | - | 0.5000 | - | - |",
        "| cold | 8 | 0.1250 | 0.0625 |",
        "As good as the model or better, by item: counts|next (everywhere).",
    ):
        assert line in card.text, line
    assert "| new |" not in card.text
    assert "By kind of target (cold: not in training; new: neither):" in card.text
    # The same in the metadata, as the Hub reads them.
    found = {result.metric_name: result for result in ModelCard(str(card)).data.eval_results}
    assert set(found) == {f"{name}, by item" for name in ("HR@5", "HR@10", "NDCG@5", "NDCG@10")} | {"HR@10, by SID"}
    best = found["HR@10, by item"]
    assert best.metric_value == 0.5 and best.metric_type == "hit_rate"
    assert best.metric_args == {
        "k": 10,
        "match": "item",
        "search": "beam",
        "num_beams": 50,
        "baselines": {"popularity": 0.25, "counts|next": 0.5},
    }
    assert (best.dataset_name, best.dataset_type, best.dataset_split) == ("Toy Store", "toy-store", "test")
    assert ModelCard(str(card)).data.model_name == "toy"


@pytest.mark.parametrize(
    ("baselines", "verdict"),
    [({}, "No baselines were computed"), ({"popularity": {"all": metrics(0.1, 0.1)}}, "above every baseline")],
)
def test_the_verdict_is_honest(model, sid_index, baselines, verdict):
    evaluation = {"settings": {}, "results": {"model": {"all": metrics(0.5, 0.25)}, **baselines}}
    assert verdict in build_model_card(model.config, sid_index, evaluations=[evaluation]).text


def test_facts_of_the_run_are_told(model, sid_index, dataset):
    stage = {
        "method": "SFT",
        "tasks": {"sequence": 1200, "title": 16},
        "steps": 300,
        "epochs": 1.5,
        "trainable": "all",
        "trainable_parameters": 134_837_568,
        "settings": {"learning_rate": 3e-4, "odd|name": "a\nb"},
    }
    facts = {"base_model": "me/base", "dataset": dataset_facts(dataset), "sid_method": "k-means.", "stages": [stage]}
    card = build_model_card(model.config, sid_index, facts=facts, license="mit", tags=["extra"])
    for told in (
        "tiny: 8 items; rows of history and next item: 6 train, 2 valid, 2 test.",
        "3 levels of 2, 3, 2 tokens; 7 SIDs for 8 items, 2 of which share theirs",
        f"`{sid_index.fingerprint}`. Method: k-means.",
        "keywords of their clusters: center `True`, norm `match_resize`, num_levels `3`, pooling `idf`",
        "**Training: SFT.** Rows of each task: sequence 1,200, title 16. 134,837,568 parameters trained (all).",
        "300 steps, 1.50 passes.",
        "| learning_rate | 0.0003 |",
        r"| odd\|name | a b |",
        "50 beams by default, length penalty 0, prompts of version 1",
        "## Limits",
        "2602.22632",
    ):
        assert told in card.text, told
    assert card.data.base_model == "me/base" and card.data.license == "mit" and card.data.language == "en"
    assert card.data.tags == ["tsrec", "recommendation", "semantic-ids", "sft", "extra"]


def test_what_nobody_knows_is_left_out(sid_index):
    card = build_model_card(TSRecConfig(), sid_index)
    assert "None" not in card.text.replace("None were measured", "")
    assert "**SA-Init.** Unknown." in card.text and "**Data.**" not in card.text and "Training" not in card.text
    assert "base_model" not in str(card.data) and "license" not in str(card.data)
    plain = build_model_card(TSRecConfig(sid_initialization={"pooling": "resize"}), sid_index)
    assert "**SA-Init.** None:" in plain.text
    control = TSRecConfig(sid_initialization={"pooling": "mean", "shuffle_seed": 0})
    assert "this is a control" in build_model_card(control, sid_index).text


def test_snippets_name_what_exists_and_the_repository(model, sid_index):
    text = build_model_card(model.config, sid_index, "me/toy").text
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 3 and all('"me/toy"' in block for block in blocks)
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "tsrec_hf":
                assert {alias.name for alias in node.names} <= set(tsrec_hf.__all__)


def test_the_first_snippet_runs_on_a_checkpoint(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
    text = build_model_card(model.config, tokenizer.sid_index, str(tmp_path)).text
    names = {}
    exec(re.search(r"```python\n(.*?)```", text, flags=re.DOTALL).group(1), names)
    [row] = names["model"].recommend(names["tokenizer"], [["hammer", "nail"]], top_k=2)
    assert len(row) == 2


def test_a_push_knows_which_cards_are_ours(model, sid_index):
    assert GENERATED_CARDS[0] in str(build_model_card(model.config, sid_index))
    assert UNNAMED_REPO in str(build_model_card(model.config, sid_index))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"facts": {"data": "x"}},
            r"facts among \['base_model', 'dataset', 'sid_method', 'stages'\], but found \['data'",
        ),
        ({"evaluations": [{"results": {"popularity": {"all": {}}}}]}, r"results of 'model' on the slice 'all'"),
        ({"evaluations": [{"settings": {}}]}, r"found methods \[\]"),
    ],
)
def test_bad_facts_are_refused(model, sid_index, arguments, words):
    with pytest.raises(ValueError, match=words):
        build_model_card(model.config, sid_index, **arguments)


EVIL = 'My | data\n## Oops <!-- /results --> {{ 7 * 7 }} `x` **b** [c](http://d): "q"\n---\nlicense: mit'


def test_names_of_any_kind_stay_text(sid_index, tmp_path):
    """Names come from folders, files and other people; none may end a table, open a section or hide behind a link."""
    figures = {"all": metrics(0.5, 0.25), "cold\n|": metrics(0.5, 0.25, rows=1)}
    evaluation = {
        "settings": {"dataset": EVIL, "split": EVIL, "rows": EVIL, "search": EVIL},
        "results": {"model": figures, EVIL: {"all": metrics(0.75, 0.5)}},
    }
    stage = {"method": EVIL, "tasks": {EVIL: 3}, "rewards": [EVIL], "settings": {EVIL: EVIL}, "trainable": EVIL}
    stage |= {"trainable_parameters": 1, "steps": 1}
    facts = {"dataset": {"name": EVIL, "items": 8}, "sid_method": EVIL, "stages": [stage]}
    config = TSRecConfig(sid_initialization={"pooling": EVIL})
    card = build_model_card(config, sid_index, "me/toy", name=EVIL, facts=facts, evaluations=[evaluation])
    (tmp_path / "README.md").write_text(str(card), encoding="utf-8")
    for _ in range(2):
        add_evaluation(tmp_path, evaluation)
    read = ModelCard.load(tmp_path / "README.md")
    plain = build_model_card(TSRecConfig(), sid_index, "me/toy", evaluations=[{**evaluation, "settings": {}}])
    sections = [line for line in plain.text.splitlines() if line.startswith("## ")]
    assert [line for line in read.text.splitlines() if line.startswith("## ")] == sections
    assert read.text.count("<!-- results -->") == read.text.count("<!-- /results -->") == 1
    assert sum(line.startswith("### ") for line in read.text.splitlines()) == 1
    assert "license" not in read.data.to_dict() and "\n---\n" not in read.text
    assert r"{{ 7 \* 7 }} \`x\` \*\*b\*\* [c]\(http://d)" in read.text
    # Cells of a table are as many as its head's.
    for table in re.findall(r"(?:^\|.*\n)+", read.text + "\n", flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1, table
    [kind] = {result.dataset_type for result in read.data.eval_results}
    assert re.fullmatch(r"[\w./-]+", kind)


@pytest.mark.parametrize("base", ["/models/base", "outputs/demo/backbone", "me/base model", 3])
def test_a_base_model_is_a_hub_id(sid_index, base):
    with pytest.raises(ValueError, match="Expected `base_model` as a Hub id .* but found"):
        build_model_card(TSRecConfig(), sid_index, facts={"base_model": base})


class TestAddEvaluation:
    def test_it_replaces_its_own_split_and_keeps_all_else(self, model, tokenizer, tmp_path, evaluation):
        valid = {**evaluation, "settings": {**evaluation["settings"], "split": "validation"}}
        card = build_model_card(model.config, tokenizer.sid_index, "me/toy", evaluations=[valid, evaluation])
        (tmp_path / "README.md").write_text(str(card).replace("## Limits", "## Limits\n\nWritten by hand."))
        newer = {"settings": evaluation["settings"], "results": {"model": {"all": metrics(0.75, 0.5)}}}
        path = add_evaluation(tmp_path, newer)
        text = path.read_text()
        assert "Written by hand." in text
        assert text.count("### Toy Store, test") == 1 and text.count("### Toy Store, validation") == 1
        assert text.count("| model, by item | 0.3750 | 0.7500 | 0.2500 | 0.5000 |") == 1
        assert text.count("| model, by item | 0.2500 | 0.5000 |") == 1  # validation's
        results = ModelCard.load(path).data.eval_results
        values = {(r.dataset_split, r.metric_name): r.metric_value for r in results}
        assert values["test", "HR@10, by item"] == 0.75 and values["validation", "HR@10, by item"] == 0.5
        assert ("test", "HR@10, by SID") not in values
        once = path.read_text()
        add_evaluation(tmp_path, newer)
        assert path.read_text() == once

    def test_the_first_one_takes_the_place_of_none(self, model, tokenizer, tmp_path, evaluation):
        model.save_pretrained(tmp_path / "toy"), tokenizer.save_pretrained(tmp_path / "toy")
        text = add_evaluation(tmp_path / "toy", evaluation).read_text()
        assert "# toy" in text and "None were measured" not in text and "### Toy Store, test" in text
        assert text.index("### Toy Store, test") < text.index("## Limits")

    def test_a_card_of_another_form_gets_a_section(self, tmp_path, evaluation):
        (tmp_path / "README.md").write_text("# Mine\n\nWords.\n")
        text = add_evaluation(tmp_path, evaluation).read_text()
        assert "# Mine\n\nWords.\n\n## Results\n" in text
        assert ModelCard.load(tmp_path / "README.md").data.eval_results[0].metric_value == 0.25

    def test_a_checkpoint_of_the_hub_is_no_folder(self, tmp_path, evaluation):
        with pytest.raises(FileNotFoundError, match="hf download"):
            add_evaluation(tmp_path / "me" / "toy", evaluation)


@pytest.mark.parametrize(
    "path", sorted(path for path in CARDS.glob("*.md") if path.name != "README.md"), ids=lambda path: path.stem
)
def test_finished_cards_are_whole(path):
    card = ModelCard.load(path)
    assert card.data.model_name == path.stem and card.data.eval_results and card.data.license
    assert all(
        {"popularity", "next-item counts"} <= set(result.metric_args["baselines"]) for result in card.data.eval_results
    )
    for section in ("## How to use", "## How it was made", "## Decoding", "## Results", "## Limits", "## Citation"):
        assert section in card.text
    assert path.stem in (CARDS / "README.md").read_text()


def test_finished_cards_are_of_this_template():
    """Snippets, limits and all else that no run decides stand in them as the template has them now."""
    index = SIDIndex(["0", "1"], [[0, 0, 0], [0, 0, 1]], titles=["a", "b"])
    for path in CARDS.glob("tsrec-*.md"):
        card = build_model_card(TSRecConfig(max_history=10), index, f"your-name/{path.stem}", evaluations=[])
        finished = path.read_text(encoding="utf-8")
        for section in ("How to use", "Limits", "Citation"):
            [expected] = re.findall(rf"(?s)\n## {section}\n.*?(?=\n## |\Z)", str(card))
            assert expected.strip() in finished, f"{path.name}: {section}"


def test_figures_of_a_data_set_on_the_hub_are_eval_results(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
    results = {"model": {"all": {"num_rows": 8, "hr@10": 0.5, "ndcg@10": 0.25, "sid_hr@10": 0.75}}}
    settings = {"dataset": "toy", "split": "test", "num_beams": 50}
    add_evaluation(tmp_path, {"settings": settings, "results": results})
    assert not (tmp_path / ".eval_results").exists()  # a leaderboard belongs to a repository
    add_evaluation(tmp_path, {"settings": settings | {"dataset_id": "me/toy"}, "results": results})
    written = yaml.safe_load((tmp_path / ".eval_results" / "me--toy.yaml").read_text())
    hr, ndcg = parse_eval_result_entries(written)
    assert (hr.dataset_id, hr.task_id, hr.value, hr.notes) == ("me/toy", "test_hr_at_10", 0.5, "num_beams 50")
    assert (ndcg.task_id, ndcg.value) == ("test_ndcg_at_10", 0.25)


def test_a_picture_and_the_task_are_named(model, tokenizer):
    card = build_model_card(model.config, tokenizer.sid_index, "me/toy", picture="training.png")
    assert (
        "](training.png)" in card.text
        and "](training.png)" not in build_model_card(model.config, tokenizer.sid_index).text
    )
    assert card.data.pipeline_tag == "text-generation" and card.data.library_name == "transformers"
    assert 'pipeline(model="me/toy", trust_remote_code=True)' in card.text
    assert "pip install tsrec_hf" not in card.text
