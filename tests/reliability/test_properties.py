"""What holds for every index, trie, prompt, ranking and list of recommendations, on examples that hypothesis draws."""

import tempfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tsrec_hf import PromptBuilder, SIDIndex, SIDTrie, hit_rate_at_k, ndcg_at_k, target_ranks
from tsrec_hf.models.ranking_tsrec import TOLERANCE, best_of


IDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
quick = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def indexes(draw) -> SIDIndex:
    item_ids = draw(st.lists(IDS, min_size=1, max_size=12, unique=True))
    levels = draw(st.integers(2, 4))
    row = st.lists(st.integers(0, 5), min_size=levels, max_size=levels)
    codes = draw(st.lists(row, min_size=len(item_ids), max_size=len(item_ids)))
    counts = draw(st.none() | st.lists(st.integers(0, 9), min_size=len(item_ids), max_size=len(item_ids)))
    return SIDIndex(
        item_ids, codes, titles=draw(st.none() | st.just([f"{item}!" for item in item_ids])), counts=counts
    )


@quick
@given(indexes())
def test_an_index_comes_back_from_its_files(index: SIDIndex) -> None:
    with tempfile.TemporaryDirectory() as folder:
        loaded = SIDIndex.load(index.save(folder))
        assert loaded == index and loaded.fingerprint == index.fingerprint
        index.to_json(f"{folder}/index.json")
        read = SIDIndex.from_json(f"{folder}/index.json")
    assert [read.sid_of(item) for item in read.item_ids] == [index.sid_of(item) for item in index.item_ids]


@quick
@given(indexes())
def test_items_are_found_by_their_sids(index: SIDIndex) -> None:
    for item in index.item_ids:
        sid = index.sid_of(item)
        assert item in index.items_of(sid) and index.spell(index.parse(sid)) == sid
    assert sorted(sum((index.items_of(sid) for sid in {index.sid_of(i) for i in index.item_ids}), [])) == sorted(
        index.item_ids
    )


@quick
@given(indexes())
def test_a_trie_has_these_sids_and_no_others(index: SIDIndex) -> None:
    trie = SIDTrie(index.codes, index.counts)
    prefixes = {(): torch.tensor([0])}
    for depth in range(trie.num_levels):
        longer = {}
        for prefix, node in prefixes.items():
            nodes, codes, legal = trie.children(node, depth)
            for child, code in zip(nodes[legal], codes[legal].tolist()):
                longer[*prefix, code] = child.unsqueeze(0)
        prefixes = longer
    rows = index.codes.tolist()
    assert set(prefixes) == set(map(tuple, rows)) and len(prefixes) == trie.num_leaves
    for sid, node in prefixes.items():
        items = trie.items_of_leaf(int(trie.leaves_of(node)))
        assert sorted(items) == [row for row, codes in enumerate(rows) if tuple(codes) == sid]
        assert int(trie.first_items[node]) == min(items)


@quick
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_text_is_no_token(tokenizer, text: str) -> None:
    """Whatever a text holds, SIDs, end tokens and their parts included."""
    prompts = PromptBuilder(tokenizer)
    special = {token for level in tokenizer.sid_token_ids for token in level} | {tokenizer.eos_token_id}
    for hostile in (text, f"<a_0>{text}</s>", f"{text}<a_0><b_1><c_0>", f"<a_{text}0>"):
        ids = tokenizer(prompts.text_answer(hostile), add_special_tokens=False).input_ids
        assert not special & set(ids[:-1]) and ids[-1] == tokenizer.eos_token_id


@quick
@given(st.lists(st.floats(-5, 0, width=16), min_size=1, max_size=30), st.data())
def test_the_best_are_ranked_by_score_and_then_by_number(values: list[float], data) -> None:
    numbers = data.draw(st.permutations(range(len(values))))
    k = data.draw(st.integers(1, len(values)))
    noise = torch.rand(len(values), generator=torch.Generator().manual_seed(0)) * 1e-6
    # Half precision: what differs, differs by far more than the noise, but for numbers near zero.
    values = [round(value, 2) for value in values]
    expected = sorted(range(len(values)), key=lambda place: (-values[place], numbers[place]))[:k]
    found = best_of(torch.tensor(values, dtype=torch.float32) + noise, torch.tensor(numbers), k)
    assert found.tolist() == expected and TOLERANCE < 0.01


@quick
@given(st.data())
def test_metrics_are_ordered(data) -> None:
    users = data.draw(st.integers(1, 6))
    items = [f"i{number}" for number in range(12)]
    lists = [data.draw(st.permutations(items))[: data.draw(st.integers(0, 12))] for _ in range(users)]
    targets = [data.draw(st.sampled_from(items)) for _ in range(users)]
    ranks = target_ranks(lists, targets)
    assert [(-1 if target not in row else row.index(target)) for row, target in zip(lists, targets)] == ranks.tolist()
    rates = [float(hit_rate_at_k(ranks, k)) for k in range(1, 13)]
    gains = [float(ndcg_at_k(ranks, k)) for k in range(1, 13)]
    assert rates == sorted(rates) and gains == sorted(gains) and gains[0] == rates[0]
    assert all(0 <= gain <= rate + 1e-6 <= 1 + 2e-6 for gain, rate in zip(gains, rates))
    assert rates[-1] == pytest.approx(np.mean([target in row for row, target in zip(lists, targets)]))


@settings(
    max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_every_search_gives_distinct_items_of_the_catalogue_best_first(model, tokenizer, data) -> None:
    items = tokenizer.sid_index.item_ids
    histories = data.draw(st.lists(st.lists(st.sampled_from(items), min_size=1, max_size=4), min_size=1, max_size=3))
    arguments = {
        "top_k": data.draw(st.integers(1, 8)),
        "search": data.draw(st.sampled_from(["beam", "exact"])),
        "scoring": data.draw(st.sampled_from(["vocabulary", "catalogue"])),
        "exclude_history": data.draw(st.booleans()),
        "prior": None,
    }
    for history, found in zip(histories, model.recommend(tokenizer, histories, num_beams=20, **arguments)):
        given = [item.item_id for item in found]
        allowed = set(items) - (set(history) if arguments["exclude_history"] else set())
        assert set(given) <= allowed and len(set(given)) == len(given) == min(arguments["top_k"], len(allowed))
        scores = [item.score for item in found]
        assert all(before >= after - TOLERANCE for before, after in zip(scores, scores[1:])) and scores[0] <= 1e-6
        assert all(item.sid == tokenizer.sid_index.sid_of(item.item_id) for item in found)
