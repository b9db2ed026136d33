"""The Inference Endpoint's handler, called as its server does."""

import importlib.util
import inspect

import pytest

from tsrec_hf.models.handler import TRUST, WITHHELD, EndpointHandler


@pytest.fixture
def handler(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "handler.py").is_file() and "transformers>=5.20" in (tmp_path / "requirements.txt").read_text()
    return EndpointHandler(str(tmp_path))


def test_one_user(handler, model, tokenizer):
    answer = handler({"inputs": ["hammer", "nail"]})
    [expected] = model.recommend(tokenizer, [["hammer", "nail"]])
    titles = dict(zip(tokenizer.sid_index.item_ids, tokenizer.sid_index.titles))
    assert [item["item_id"] for item in answer] == [item.item_id for item in expected]
    assert answer[0] == {**expected[0]._asdict(), "title": titles[expected[0].item_id]}


def test_several_users_and_parameters(handler, model, tokenizer):
    histories = [["hammer", "nail"], ["apple"]]
    parameters = {"top_k": 2, "num_beams": 4, "exclude_history": True, "exclude_items": ["saw"]}
    answer = handler({"inputs": histories, "parameters": parameters})
    expected = model.recommend(tokenizer, histories, **parameters)
    assert [[item["item_id"] for item in row] for row in answer] == [[i.item_id for i in row] for row in expected]
    assert all(len(row) == 2 for row in answer)
    assert handler({"inputs": [["apple"]], "parameters": None}) == [handler({"inputs": ["apple"]})]


def test_delisted_items_can_be_dropped(handler):
    answer = handler({"inputs": ["hammer", "gone"], "parameters": {"unknown_items": "drop"}})
    assert answer == handler({"inputs": ["hammer"]})


def test_parameters_are_those_of_recommend(handler, model):
    options = set(inspect.signature(model.recommend).parameters) - {"tokenizer", "histories"}
    assert set(handler.parameters) == options - WITHHELD and WITHHELD <= options
    assert {"top_k", "num_beams", "exclude_history", "search", "scoring"} <= set(handler.parameters)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, r"Expected `inputs` with item ids, .* but found None"),
        ({"inputs": []}, r"but found \[\]"),
        ({"inputs": "hammer"}, "but found 'hammer'"),
        ({"inputs": {"items": ["hammer"]}}, "but found {'items'"),
        ({"inputs": [1, 2]}, "item ids as strings"),
        ({"inputs": [["hammer"], "nail"]}, "in a list for each user"),
        ({"inputs": ["anvil"]}, "'anvil'"),
        ({"inputs": [["hammer"], []]}, "history of at least one item"),
        (
            {"inputs": ["hammer"], "parameters": {"temperature": 1}},
            r"`parameters` among .* but found \['temperature'\]",
        ),
        ({"inputs": ["hammer"], "parameters": {"top_k": 0}}, "at least 1"),
        ({"inputs": ["hammer"], "parameters": {"top_k": "two"}}, "top_k|str"),
        ({"inputs": ["hammer"], "parameters": {"allowed_items": ["anvil"]}}, "'anvil'"),
        ({"inputs": ["hammer"], "parameters": {"top_k": "5"}}, "`top_k` as a whole number"),
        ({"inputs": ["hammer"], "parameters": {"top_k": 10**9}}, "`top_k` of at most 1000, but found 1000000000"),
        ({"inputs": ["hammer"], "parameters": {"num_beams": 5000}}, "`num_beams` of at most 1000"),
        ({"inputs": ["hammer"], "parameters": ["top_k"]}, "`parameters` as an object, but found `list`"),
        ({"inputs": ["hammer"] * 10_001}, "the longest of 10001"),
        ({"inputs": [["hammer"]] * 1001}, "at most 1000 histories .* but found 1001"),
        (["hammer"], "a request as an object with `inputs`, but found `list`"),
        (None, "a request as an object"),
    ],
)
def test_bad_requests_are_told_what_to_send(handler, data, words):
    with pytest.raises(ValueError, match=words):
        handler(data)


def test_no_code_of_the_repository_runs_unless_its_owner_asks(model, tokenizer, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path), tokenizer.save_pretrained(tmp_path)
    poison = "raise SystemExit('this code was not asked for')"
    for path in tmp_path.glob("*.py"):
        path.write_text(poison)
    monkeypatch.delenv(TRUST, raising=False)
    assert EndpointHandler(str(tmp_path))({"inputs": ["hammer"]})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=f"`tsrec_hf` to be installed, or .* set {TRUST}=1"):
        EndpointHandler(str(tmp_path))
