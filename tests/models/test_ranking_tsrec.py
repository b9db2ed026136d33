"""Equal scores have one order: that of the index, in every batch, order, search and scoring."""

import itertools

import numpy as np
import pytest
import torch
from datasets import Dataset

from tsrec_hf.models import NextItemPrior, SIDIndex
from tsrec_hf.models.ranking_tsrec import best_of


IDS = [f"item{number}" for number in np.random.default_rng(3).permutation(40)]
# In no order, and with several items to a SID.
CODES = np.random.default_rng(4).integers(0, 4, size=(40, 3))
HISTORIES = [[IDS[(3 * user + step) % 40] for step in range(1 + user % 4)] for user in range(8)]


@pytest.fixture(scope="module")
def equal_rows(backbone_dir):
    """A recommender whose SID tokens of a level all have the same rows."""
    from tsrec_hf import TSRecForCausalLM, TSRecTokenizer

    tokenizer = TSRecTokenizer.from_backbone(backbone_dir, SIDIndex(IDS, CODES))
    model = TSRecForCausalLM.from_backbone(backbone_dir, tokenizer)
    for level in tokenizer.sid_token_ids:
        model.get_input_embeddings().weight.data[level] = model.get_input_embeddings().weight.data[level[0]].clone()
    return model, tokenizer


def expected_leaves(index: SIDIndex) -> list[str]:
    """SIDs in the order of their first items."""
    return list(dict.fromkeys(index.sid_of(item) for item in index.item_ids))


@pytest.mark.parametrize("scoring", ["vocabulary", "catalogue"])
@pytest.mark.parametrize(("search", "top_k", "num_beams"), [("beam", 4, 12), ("beam", 12, 12), ("exact", 6, 8)])
def test_equal_scores_stand_in_index_order_in_every_batch(equal_rows, scoring, search, top_k, num_beams) -> None:
    model, tokenizer = equal_rows
    # All SIDs of a parent are equal; prefixes with fewer children may be better by scoring in the catalogue.
    settings = {"top_k": top_k, "num_beams": num_beams, "search": search, "scoring": scoring}
    alone = [model.recommend(tokenizer, [history], **settings)[0] for history in HISTORIES]
    for batch_size in (1, 3, 8):
        for order in (list(range(8)), [3, 0, 7, 1, 6, 2, 5, 4]):
            found = model.recommend(tokenizer, [HISTORIES[user] for user in order], batch_size=batch_size, **settings)
            for user, items in zip(order, found):
                assert [item.item_id for item in items] == [item.item_id for item in alone[user]]
    if scoring == "vocabulary":
        sids = [list(dict.fromkeys(item.sid for item in items)) for items in alone]
        expected = expected_leaves(tokenizer.sid_index)
        assert all(found == expected[: len(found)] for found in sids)


def test_a_prior_without_an_opinion_changes_no_order(equal_rows) -> None:
    model, tokenizer = equal_rows
    rows = Dataset.from_dict({"history": [[IDS[0]]], "target": [IDS[1]]})
    prior = NextItemPrior.fit(rows, tokenizer.sid_index)
    settings = {"top_k": 5, "num_beams": 40, "scoring": "vocabulary", "prior": prior, "search": "beam"}
    lists = [
        [item.item_id for item in model.recommend(tokenizer, histories, batch_size=size, **settings)[0]]
        for size, histories in itertools.product((1, 3, 8), ([HISTORIES[5]], [HISTORIES[5], *HISTORIES]))
    ]
    assert all(found == lists[0] for found in lists)


def test_by_hand() -> None:
    scores = torch.tensor([[0.1, 0.3, 0.3, -torch.inf, 0.3], [1.0, 1.0 + 1e-6, 1.0 - 1e-6, 1.0, 2.0]])
    numbers = torch.tensor([[0, 9, 4, 1, 6], [4, 3, 2, 1, 9]])
    assert best_of(scores, numbers, 2).tolist() == [[2, 4], [4, 3]]
    assert best_of(scores, numbers, 5).tolist() == [[2, 4, 1, 0, 3], [4, 3, 2, 1, 0]]
    # NaN is kept, since somebody must hear of it.
    assert best_of(torch.tensor([0.0, torch.nan, 1.0]), torch.tensor([0, 1, 2]), 1).tolist() == [1]


def test_without_equals_it_is_topk() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(7, 300, generator=generator) * 10
    numbers = torch.stack([torch.randperm(300, generator=generator) for _ in range(7)])
    expected = scores.topk(20).values
    torch.testing.assert_close(scores.gather(1, best_of(scores, numbers, 20)), expected, rtol=0, atol=3e-5)
