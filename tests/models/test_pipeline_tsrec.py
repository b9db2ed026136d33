import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import pipeline

from tsrec_hf import RecommendationPipeline
from tsrec_hf.models import SIDIndex


HISTORIES = [["hammer", "nail"], ["apple"], ["bread", "pear", "saw"], ["cheese"], ["screw"]]


@pytest.fixture
def recommend(model, tokenizer):
    return pipeline("recommendation", model=model, tokenizer=tokenizer, device="cpu", top_k=3)


def expected(model, tokenizer, histories=HISTORIES, **settings):
    titles = dict(zip(tokenizer.sid_index.item_ids, tokenizer.sid_index.titles))
    rows = model.recommend(tokenizer, histories, **{"top_k": 3, **settings})
    return [[{**item._asdict(), "title": titles[item.item_id]} for item in row] for row in rows]


def same(found, wanted) -> bool:
    for row, other in zip(found, wanted, strict=True):
        assert [{**item, "score": 0} for item in row] == [{**item, "score": 0} for item in other]
        assert [item["score"] for item in row] == pytest.approx([item["score"] for item in other], abs=1e-5)
    return True


def test_one_history_and_several(recommend, model, tokenizer) -> None:
    assert isinstance(recommend, RecommendationPipeline)
    assert same(recommend(HISTORIES), expected(model, tokenizer))
    assert same([recommend(HISTORIES[0])], expected(model, tokenizer, HISTORIES[:1]))
    assert same(recommend(tuple(HISTORIES), batch_size=2), expected(model, tokenizer))
    assert recommend([]) == []


def test_settings_of_the_pipeline_and_of_a_call(recommend, model, tokenizer) -> None:
    settings = {"top_k": 2, "num_beams": 8, "exclude_history": True, "allowed_items": ["nail", "pear", "saw"]}
    assert same(recommend(HISTORIES, **settings), expected(model, tokenizer, **settings))
    assert same(recommend(HISTORIES), expected(model, tokenizer))  # forgotten after the call
    per_user = [["nail"], ["pear"], ["saw"], ["apple"], ["bread"]]
    found = recommend(HISTORIES, allowed_items=per_user, top_k=1)
    assert [row[0]["item_id"] for row in found] == ["nail", "pear", "saw", "apple", "bread"]
    catalogue = recommend(HISTORIES, scoring="catalogue", search="exact")
    assert same(catalogue, expected(model, tokenizer, scoring="catalogue"))


@pytest.mark.parametrize("kind", ["data set", "column", "generator", "iterable data set"])
def test_streams_hold_a_chunk_at_a_time(recommend, model, tokenizer, kind, monkeypatch) -> None:
    histories = HISTORIES * 20
    data = Dataset.from_dict({"history": histories, "basket": histories})
    read, asked = [], []
    stream = {
        "data set": lambda: data,
        "column": lambda: data["basket"],
        "generator": lambda: (read.append(h) or h for h in histories),
        "iterable data set": lambda: data.to_iterable_dataset(),
    }[kind]()
    wanted, original = expected(model, tokenizer, histories), type(model).recommend
    monkeypatch.setattr(type(model), "recommend", lambda *a, **k: asked.append(len(a[2])) or original(*a, **k))
    found = recommend(stream, batch_size=2, column="basket")
    assert asked == []  # lazily
    first = next(found)
    assert asked == [32] and len(read) in (0, 32)
    assert same([first, *found], wanted) and asked == [32, 32, 32, 4]


def test_rules_for_all_users_of_a_stream(recommend, model, tokenizer) -> None:
    allowed = ["nail", "pear", "saw"]
    wanted = expected(model, tokenizer, HISTORIES * 20, allowed_items=allowed)
    mask = tokenizer.sid_index.mask_of(allowed)
    for rule in (allowed, set(allowed), mask, (item for item in allowed)):
        assert same(recommend(iter(HISTORIES * 20), batch_size=2, allowed_items=rule), wanted)
    # What can be read only once serves every call all the same.
    always = pipeline(
        "recommendation", model=model, tokenizer=tokenizer, device="cpu", top_k=3, allowed_items=iter(allowed)
    )
    for _ in range(2):
        assert same(always(HISTORIES * 20), wanted)


def test_the_user_of_a_stream_whose_rules_allow_nothing_is_named(recommend) -> None:
    stream = recommend(
        iter([["hammer"]] * 40 + [["apple"]]), batch_size=2, allowed_items=["apple"], exclude_history=True
    )
    with pytest.raises(ValueError, match="user 8 may be given") as error:
        list(stream)
    assert error.value.__notes__ == ["Users are counted from number 32 of the stream."]


def test_delisted_items_can_be_dropped(recommend) -> None:
    with pytest.raises(KeyError, match="'gone'"):
        recommend(["hammer", "gone"], top_k=3)
    assert recommend(["hammer", "gone"], top_k=3, unknown_items="drop") == recommend(["hammer"], top_k=3)


def test_a_progress_bar(recommend, capsys) -> None:
    list(recommend(Dataset.from_dict({"history": HISTORIES}), progress=True))
    assert "5/5" in capsys.readouterr().err
    recommend(HISTORIES, progress=True)
    assert "5/5" in capsys.readouterr().err


def test_an_index_without_titles(make_recommender) -> None:
    index = SIDIndex(["a", "b"], [[0, 1], [1, 0]])
    model, tokenizer = make_recommender(index=index, semantics=None)
    recommend = pipeline("recommendation", model=model, tokenizer=tokenizer, device="cpu")
    assert [item["title"] for item in recommend(["a"])] == [None, None]


def test_errors(recommend, dataset) -> None:
    for single in ("hammer", {"history": ["hammer"]}):
        with pytest.raises(TypeError, match="list of item ids"):
            recommend(single)
    with pytest.raises(TypeError, match="Unknown setting 'temperature'"):
        recommend(["hammer"], temperature=0.5)
    with pytest.raises(KeyError, match="'spoon' is not among"):
        recommend(["spoon"])
    with pytest.raises(ValueError, match=r"a column 'basket' of histories.*'history'"):
        recommend(dataset.test, column="basket")
    with pytest.raises(ValueError, match="`allowed_items` for all users of a stream"):
        recommend(dataset.test, allowed_items=[["nail"], ["saw"]])
    # A chunk of as many users as there are weights would have taken them for its own.
    for prior in ([{"nail": 9.0}] * 16, np.ones((16, 8)), torch.ones(16, 8), [[1.0] * 8] * 16):
        with pytest.raises(ValueError, match="a `prior` for all users of a stream"):
            recommend(iter(HISTORIES * 20), prior=prior)
    assert list(recommend(iter(HISTORIES), prior=[1.0] * 8, top_k=3))


def test_a_plain_language_model_is_refused(backbone_dir) -> None:
    with pytest.raises(TypeError, match="a recommender.*but found `LlamaForCausalLM`.*from_backbone"):
        pipeline("recommendation", model=str(backbone_dir), device="cpu")


def test_a_folder_loads_with_the_package_and_without(recommend, model, tokenizer, tmp_path) -> None:
    model.save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    loaded = pipeline("recommendation", model=str(tmp_path / "plain"), device="cpu", top_k=3)
    assert same(loaded(HISTORIES), expected(model, tokenizer))

    recommend.save_pretrained(tmp_path / "pipeline")
    script = f"""
import json, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tsrec_hf":
            raise ImportError("tsrec_hf is not installed here")

sys.meta_path.insert(0, Blocker())
from transformers import pipeline

recommend = pipeline("recommendation", model="pipeline", trust_remote_code=True, device="cpu", top_k=3)
json.dump(recommend({HISTORIES!r}), open("results.json", "w"))
assert not any(name.split(".")[0] == "tsrec_hf" for name in sys.modules)
"""
    (tmp_path / "script.py").write_text(script)
    run = subprocess.run(
        [sys.executable, "-I", "script.py"],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert same(json.loads((tmp_path / "results.json").read_text()), expected(model, tokenizer))


def test_the_task_is_registered_whoever_comes_first() -> None:
    check = "from transformers.pipelines import PIPELINE_REGISTRY as r; assert 'recommendation' in r.supported_tasks"
    for script in (
        f"import sys, tsrec_hf; assert 'transformers.pipelines' not in sys.modules; {check}",
        f"from transformers import pipeline; import tsrec_hf; {check}",
        f"import tsrec_hf; from transformers import pipeline; {check}",
        f"from tsrec_hf import RecommendationPipeline; {check}",
        f"import tsrec_hf.models.pipeline_tsrec; {check}",
    ):
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
