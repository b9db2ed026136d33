import math

import numpy as np
import pytest
import torch

from tsrec_hf.evaluation import hit_rate_at_k, ndcg_at_k, target_ranks


RANKS = torch.tensor([0, 2, -1, 9, 10])


# Hits: rank 0 from k=1 on, rank 2 from k=3 on, rank 9 from k=10 on; rank 10 never.
@pytest.mark.parametrize(("k", "expected"), [(1, 1 / 5), (2, 1 / 5), (3, 2 / 5), (9, 2 / 5), (10, 3 / 5)])
def test_hit_rate_by_hand(k, expected):
    rate = hit_rate_at_k(RANKS, k)
    assert rate.shape == ()
    assert rate.item() == pytest.approx(expected)


# Gains: 1 / log2(2) = 1 at rank 0, 1 / log2(4) = 1/2 at rank 2, 1 / log2(11) at rank 9.
@pytest.mark.parametrize(("k", "expected"), [(1, 1 / 5), (3, 1.5 / 5), (10, (1.5 + 1 / math.log2(11)) / 5)])
def test_ndcg_by_hand(k, expected):
    gain = ndcg_at_k(RANKS, k)
    assert gain.shape == ()
    assert gain.item() == pytest.approx(expected)


def test_ndcg_is_that_of_scikit_learn():
    sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn: pip install scikit-learn")
    generator = np.random.default_rng(0)
    num_rows, num_items = 200, 30
    scores = np.stack([generator.permutation(num_items) for _ in range(num_rows)]).astype(float)
    targets = generator.integers(0, num_items, num_rows)
    relevance = np.eye(num_items)[targets]
    ranks = torch.tensor([int((row > row[target]).sum()) for row, target in zip(scores, targets)])
    for k in (1, 3, 5, 10):
        # Beyond the cut-off a list does not exist.
        within = torch.where(ranks < k, ranks, -1)
        expected = sklearn_metrics.ndcg_score(relevance, scores, k=k)
        assert ndcg_at_k(ranks, k).item() == pytest.approx(expected, abs=1e-6)
        assert ndcg_at_k(within, k).item() == pytest.approx(expected, abs=1e-6)
        expected = sklearn_metrics.top_k_accuracy_score(targets, scores, k=k, labels=range(num_items))
        assert hit_rate_at_k(ranks, k).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("metric", [hit_rate_at_k, ndcg_at_k])
def test_no_rows_and_no_cut_off_are_errors(metric):
    with pytest.raises(ValueError, match="at least one row, but found shape"):
        metric(torch.tensor([], dtype=torch.long), 10)
    with pytest.raises(ValueError, match=r"shape \(num_rows,\).* found shape \(1, 1\)"):
        metric(torch.tensor([[0]]), 10)
    with pytest.raises(ValueError, match="at least 1, but found k=0"):
        metric(RANKS, 0)


def test_target_ranks():
    ranks = target_ranks([["a", "b"], ["c"], [], ("b", "a", "b")], ["b", "a", "a", "b"])
    assert ranks.dtype == torch.long
    assert ranks.tolist() == [1, -1, -1, 0]


def test_target_ranks_needs_a_list_per_target():
    with pytest.raises(ValueError, match="found 1 lists and 2 targets"):
        target_ranks([["a"]], ["a", "b"])
