"""What a traced search says: the levels of a beam search, without a change of what it finds."""

import math

import pytest
import torch

from tsrec_hf.models import NextItemPrior, trace_search


def test_the_items_are_those_of_recommend(model, tokenizer, dataset) -> None:
    prior = NextItemPrior.fit(dataset.train, tokenizer.sid_index)
    for options in ({}, {"exclude_history": True, "num_beams": 3, "top_k": 3}, {"prior": prior, "prior_weight": 0.5}):
        trace = trace_search(model, tokenizer, ["hammer", "apple"], **options)
        [items] = model.recommend(tokenizer, [["hammer", "apple"]], **options)
        # To the last digit only where nothing is pruned.
        assert [item.item_id for item in trace.items] == [item.item_id for item in items]
        assert [item.score for item in trace.items] == pytest.approx([item.score for item in items])
        leaves = ["".join(prefix.tokens) for prefix in trace.steps[-1].kept]
        assert list(dict.fromkeys(item.sid for item in trace.items)) == leaves[: len({i.sid for i in trace.items})]


def test_what_is_kept_and_what_is_cut_make_up_the_level(model, tokenizer) -> None:
    """Two first tokens, five second ones, seven SIDs; probabilities over legal tokens add up to 1."""
    first, second, third = trace_search(model, tokenizer, ["hammer"], top_k=2, num_beams=2).steps
    assert [(len(step.kept), step.num_cut, step.num_closed) for step in (first, second)] == [(2, 0, 0), (2, 3, 0)]
    assert first.best_cut is None and first.cut_prob == 0
    assert sum(math.exp(prefix.log_prob) for prefix in first.kept) == pytest.approx(1)
    assert [prefix.num_items for prefix in first.kept] == [4, 4]
    assert second.cut_prob + sum(math.exp(prefix.log_prob) for prefix in second.kept) == pytest.approx(1)
    assert second.best_cut.score <= second.kept[-1].score
    # A level holds children of what the level above kept.
    for above, below in ((first, second), (second, third)):
        parents = {prefix.tokens for prefix in above.kept}
        assert {prefix.tokens[:-1] for prefix in below.kept} <= parents
    assert all(prefix.score == prefix.log_prob for step in (first, second, third) for prefix in step.kept)


def test_prefixes_of_items_that_may_not_be_recommended_are_closed(model, tokenizer) -> None:
    trace = trace_search(model, tokenizer, ["hammer"], allowed_items=["nail", "screw", "saw"], exclude_history=True)
    # Of the tools, <a_0><b_0><c_0> is the hammer's own SID.
    assert [(len(step.kept), step.num_cut, step.num_closed) for step in trace.steps] == [
        (1, 0, 1),
        (2, 0, 0),
        (2, 0, 1),
    ]
    assert {item.item_id for item in trace.items} == {"nail", "screw", "saw"}


def test_a_prior_decides_and_the_models_probability_stands_beside_it(model, tokenizer) -> None:
    weights = torch.full((8,), 1e-6)
    weights[tokenizer.sid_index.item_ids.index("pear")] = 1.0
    trace = trace_search(model, tokenizer, ["hammer"], top_k=1, num_beams=1, prior=weights)
    assert ["".join(step.kept[0].tokens) for step in trace.steps] == ["<a_1>", "<a_1><b_0>", "<a_1><b_0><c_1>"]
    assert trace.items[0].item_id == "pear"
    last = trace.steps[-1].kept[0]
    assert (last.log_prob, last.score) == (trace.items[0].log_prob, trace.items[0].score)


def test_many_items_are_traced_where_a_search_would_be_pruned(model, tokenizer, monkeypatch) -> None:
    monkeypatch.setattr("tsrec_hf.models.search_tsrec.MIN_ROWS_TO_PRUNE", 1)
    trace = trace_search(model, tokenizer, ["hammer"], top_k=1, num_beams=4)
    assert [len(step.kept) for step in trace.steps] == [2, 4, 4]


def test_a_history_that_nothing_is_left_of_has_no_steps(model, tokenizer) -> None:
    trace = trace_search(model, tokenizer, ["spanner"], unknown_items="drop")
    assert trace.steps == [] and trace.items == []
    with pytest.raises(KeyError, match="spanner"):
        trace_search(model, tokenizer, ["spanner"])
