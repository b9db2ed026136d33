"""Business rules inside the trie equal leaving items out of the whole ranking, and never cost a place in the list."""

import numpy as np
import pandas as pd
import pytest
import torch

from tsrec_hf import SIDIndex, SIDTrie
from tsrec_hf.evaluation import recommend_distributed
from tsrec_hf.models.filtering_tsrec import ItemFilter


ITEM_IDS = [f"item{number}" for number in range(40)]


@pytest.fixture
def recommender(make_recommender):
    codes = np.random.default_rng(1).integers(0, 4, (40, 3))
    model, tokenizer = make_recommender("llama", index=SIDIndex(ITEM_IDS, codes), semantics=None)
    torch.manual_seed(0)
    with torch.no_grad():
        # Rows of their own, so that SIDs score apart.
        model.get_input_embeddings().weight[-12:].normal_(std=0.5)
    assert tokenizer.sid_index.collisions()
    return model, tokenizer


def draw_histories(rng) -> list[list[str]]:
    return [rng.choice(ITEM_IDS, size=rng.integers(1, 8)).tolist() for _ in range(6)]


def draw_items(rng, low: int, high: int) -> list[str]:
    return rng.choice(ITEM_IDS, size=rng.integers(low, high), replace=False).tolist()


def of_user(items, user: int):
    return items if not items or isinstance(items[0], str) else items[user]


@pytest.mark.parametrize("seed", range(12))
def test_rules_equal_a_filtered_full_ranking(recommender, seed):
    model, tokenizer = recommender
    rng = np.random.default_rng(seed)
    histories = draw_histories(rng)
    allowed = [None, draw_items(rng, 12, 30), [draw_items(rng, 14, 20) for _ in histories]][seed % 3]
    excluded = [None, draw_items(rng, 1, 5), [draw_items(rng, 0, 5) for _ in histories]][seed // 3 % 3]
    rules = {"allowed_items": allowed, "exclude_items": excluded, "exclude_history": seed % 2 == 0}
    whole = model.recommend(tokenizer, histories, top_k=40, num_beams=40)
    ruled = model.recommend(tokenizer, histories, top_k=40, num_beams=40, batch_size=4, **rules)
    few = model.recommend(tokenizer, histories, top_k=5, num_beams=5, **rules)
    for user, history in enumerate(histories):
        own, barred = of_user(allowed, user), set(of_user(excluded, user) or [])
        barred |= set(history) if rules["exclude_history"] else set()
        expected = [r for r in whole[user] if r.item_id not in barred and (own is None or r.item_id in own)]
        assert [r.item_id for r in ruled[user]] == [r.item_id for r in expected]
        assert [r.score for r in ruled[user]] == pytest.approx([r.score for r in expected], abs=1e-5)
        # Five beams reach five legal items, whatever the rules close.
        assert len(few[user]) == min(5, len(expected))


def test_a_beam_is_never_spent_on_what_may_not_be_given(recommender):
    model, tokenizer = recommender
    [ranking] = model.recommend(tokenizer, [["item0"]], top_k=40, num_beams=40)
    worst = ranking[-1].item_id
    [[only]] = model.recommend(tokenizer, [["item0"]], top_k=1, num_beams=1, allowed_items=[worst])
    assert only.item_id == worst


def test_items_of_a_shared_sid_are_barred_one_by_one(model, tokenizer):
    [items] = model.recommend(tokenizer, [["saw"]], top_k=8, num_beams=8, exclude_items=["nail"])
    names = [item.item_id for item in items]
    assert "nail" not in names and "screw" in names and len(names) == 7


def test_rules_that_leave_nothing_name_the_user(model, tokenizer):
    histories = [["saw"], ["apple"]]
    with pytest.raises(ValueError, match="user 1 may be given"):
        model.recommend(tokenizer, histories, allowed_items=[["nail"], ["pear"]], exclude_items=["pear"])
    with pytest.raises(ValueError, match="user 0 may be given"):
        model.recommend(tokenizer, histories, allowed_items=[])
    with pytest.raises(ValueError, match="user 1 may be given"):
        model.recommend(tokenizer, histories, allowed_items=["apple"], exclude_history=True)


def test_a_mask_says_the_same_as_ids(model, tokenizer):
    item_ids = tokenizer.sid_index.item_ids
    mask = tokenizer.sid_index.mask_of({"nail", "pear", "saw"})
    assert mask.tolist() == [item_id in ("nail", "pear", "saw") for item_id in item_ids]
    by_ids = model.recommend(tokenizer, [["hammer"]], allowed_items=["nail", "pear", "saw"], exclude_history=True)
    assert len(by_ids[0]) == 3
    assert model.recommend(tokenizer, [["hammer"]], allowed_items=mask, exclude_history=True) == by_ids
    assert model.recommend(tokenizer, [["hammer"]], exclude_items=~mask) == by_ids
    with pytest.raises(ValueError, match=r"mask of shape \(8,\).*but found shape \(3,\)"):
        model.recommend(tokenizer, [["hammer"]], allowed_items=mask[:3])
    with pytest.raises(ValueError, match="user 0 may be given"):
        model.recommend(tokenizer, [["hammer"]], allowed_items=np.zeros(8, dtype=bool))


def test_wrong_rules_are_refused(model, tokenizer):
    with pytest.raises(KeyError, match="'spoon' is not among"):
        model.recommend(tokenizer, [["saw"]], exclude_items=["spoon"])
    with pytest.raises(KeyError, match="'spoon' is not among"):
        tokenizer.sid_index.mask_of(["saw", "spoon"])
    with pytest.raises(TypeError, match="found the string 'nail'"):
        tokenizer.sid_index.mask_of("nail")
    with pytest.raises(TypeError, match="found the string 'nail'"):
        model.recommend(tokenizer, [["saw"]], allowed_items="nail")
    with pytest.raises(ValueError, match="2 collections for 1 users"):
        model.recommend(tokenizer, [["saw"]], allowed_items=[["nail"], ["saw"]])


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        (["nail", "saw"], None),
        ([["nail"], "saw"], "'saw' of type `str`"),
        ([None, ["saw"]], "None of type `NoneType`"),
        ([1, 2], "1 of type `int`"),
        ([True] * 8, "True of type `bool`"),
        (torch.ones(8, dtype=torch.bool), r"tensor\(True\) of type `Tensor`"),
        ([np.ones(8, dtype=bool)] * 2, "of type `ndarray`"),
        (3, "3 of type `int`"),
    ],
)
@pytest.mark.parametrize("name", ["allowed_items", "exclude_items"])
def test_rules_are_collections_of_ids_or_one_for_each_user(model, tokenizer, name, rule, found):
    histories = [["hammer"], ["apple"]]
    if found is None:
        assert model.recommend(tokenizer, histories, **{name: rule})
        return
    with pytest.raises(TypeError, match=f"Expected `{name}` as .*mask_of.*but found .*{found}"):
        model.recommend(tokenizer, histories, **{name: rule})


def test_the_characters_of_an_id_are_no_rule(make_recommender):
    model, tokenizer = make_recommender(index=SIDIndex(["1", "7", "17"], [[0, 0], [0, 1], [1, 0]]), semantics=None)
    with pytest.raises(TypeError, match="found '17' of type `str`"):
        model.recommend(tokenizer, [["1"], ["7"]], allowed_items=[["1"], "17"])


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_counts_and_paths_equal_a_walk(levels):
    rng = np.random.default_rng(levels)
    codes = rng.integers(0, 5, (60, levels))
    trie = SIDTrie(codes)
    mask = torch.from_numpy(rng.random(60) < 0.4)
    expected = torch.zeros(trie.num_nodes, dtype=torch.int32)
    expected[0] = mask.sum()
    paths = trie.paths_of(torch.arange(60))
    for item in range(60):
        node = torch.tensor(0)
        for depth in range(levels):
            children, child_codes, legal = trie.children(node, depth)
            node = children[legal & (child_codes == codes[item, depth])][0]
            assert node == paths[item, depth]
            expected[node] += int(mask[item])
    assert torch.equal(trie.count_items(mask), expected)


def test_histories_alone_cost_nothing_per_item_of_the_catalogue(monkeypatch) -> None:
    """A filter of `exclude_history` makes no array, and counts nothing, over the catalogue."""
    codes = np.stack(np.unravel_index(np.arange(1000), (10, 10, 10)), axis=1)
    index = SIDIndex([str(number) for number in range(1000)], codes)
    index.trie.num_items_below  # derived once
    monkeypatch.setattr(SIDTrie, "count_items", None)
    monkeypatch.setattr(np, "ones", None)
    monkeypatch.setattr(np, "full", None)
    rules = ItemFilter(index, index.trie, 1, exclude_per_user=[["0", "1"]])
    assert rules.allows(0, [0, 1, 2]) == [2]
    nodes, _, legal = index.trie.children(torch.tensor([[0]]), depth=0)
    assert bool(rules.batch([0])(nodes, legal).all())
    closed = index.trie.paths_of(torch.tensor([0]))[:, -1:]
    assert not bool(rules.batch([0])(closed.unsqueeze(0), torch.ones(1, 1, 1, dtype=torch.bool)).any())


def test_a_user_of_whom_nothing_is_left_costs_the_others_nothing(recommender) -> None:
    """All of the history is delisted: an empty list beside rules of all users."""
    model, tokenizer = recommender
    rules = {"exclude_items": ["item3"], "exclude_history": True, "top_k": 3}
    found = model.recommend(tokenizer, [["gone"], ["item1"]], unknown_items="drop", **rules)
    alone = model.recommend(tokenizer, [["item1"]], **rules)[0]
    assert [[item.item_id for item in row] for row in found] == [[], [item.item_id for item in alone]]


def test_a_pandas_column_goes_by_position(recommender) -> None:
    """`[...]` of a sorted or filtered column goes by label."""
    model, tokenizer = recommender
    histories = [["item1"], ["item2", "item3"], ["item4"]]
    column = pd.Series(histories, index=[2, 0, 5])
    expected = model.recommend(tokenizer, histories, top_k=3)
    assert model.recommend(tokenizer, column, top_k=3) == expected
    assert recommend_distributed(lambda share: list(share), column) == histories
