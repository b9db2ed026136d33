import math

import numpy as np
import pytest
import torch

from tsrec_hf.evaluation import hit_rate_at_k, ndcg_at_k, paired_bootstrap
from tsrec_hf.evaluation.bootstrap import MAX_DRAWN


def test_by_hand():
    # HR@1 of a: 1, 0; of b: 0, 0. A resample draws two of two users: the first twice (1/4, difference 1), both once
    # (1/2, difference 1/2), the second twice (1/4, difference 0).
    result = paired_bootstrap(torch.tensor([0, -1]), torch.tensor([1, -1]), "hr@1", num_resamples=40_000)
    assert (result.difference, result.low, result.high) == (0.5, 0, 1)
    assert result.share_above_zero == pytest.approx(3 / 4, abs=0.01)
    half = paired_bootstrap(torch.tensor([0, -1]), torch.tensor([1, -1]), "hr@1", confidence=0.4)
    assert (half.low, half.high) == (0.5, 0.5)


def test_ndcg_and_its_cut_off():
    a, b = torch.tensor([0, 2, -1]), torch.tensor([1, 12, 0])
    result = paired_bootstrap(a, b)
    assert result.difference == pytest.approx(((1 - 1 / math.log2(3)) + 1 / 2 - 1) / 3)
    assert result.difference == pytest.approx((ndcg_at_k(a, 10) - ndcg_at_k(b, 10)).item())
    assert paired_bootstrap(a, b, "ndcg@20").difference < result.difference
    assert paired_bootstrap(a, b, "hr@2").difference == pytest.approx(
        (hit_rate_at_k(a, 2) - hit_rate_at_k(b, 2)).item()
    )


def test_equal_recommenders_do_not_differ():
    ranks = torch.tensor([0, 1, -1])
    assert paired_bootstrap(ranks, ranks) == (0, 0, 0, 0)


def random_ranks(size=800):
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(-1, 30, (size,), generator=generator)
    # Mostly the same lists: the pairs differ little, though both metrics vary much from user to user.
    b = torch.where(
        torch.rand(size, generator=generator) < 0.9, a, torch.randint(-1, 30, (size,), generator=generator)
    )
    return a, b


def test_the_interval_is_that_of_drawing_user_by_user():
    a, b = random_ranks()
    result = paired_bootstrap(a, b, num_resamples=4_000)
    gains = [
        np.where((ranks >= 0) & (ranks < 10), 1 / np.log2(ranks.clip(0) + 2), 0) for ranks in (a.numpy(), b.numpy())
    ]
    differences = gains[0] - gains[1]
    drawn = np.random.default_rng(1).integers(0, len(a), (4_000, len(a)))
    means = differences[drawn].mean(1)
    assert (result.low, result.high) == pytest.approx(np.quantile(means, [0.025, 0.975]).tolist(), abs=0.0006)
    assert result.share_above_zero == pytest.approx((means > 0).mean(), abs=0.03)
    # A normal approximation of the paired difference says the same; an unpaired one would be far wider.
    margin = 1.96 * differences.std() / math.sqrt(len(a))
    assert result.high - result.low == pytest.approx(2 * margin, rel=0.05)


def test_rows_of_one_user_are_drawn_together():
    # User u has three rows that a wins, user v one that it loses.
    a, b = torch.tensor([0, 0, 0, -1]), torch.tensor([-1, -1, -1, 0])
    result = paired_bootstrap(a, b, "hr@1", users=["u", "u", "u", "v"], num_resamples=40_000)
    assert result.difference == 0.5
    # u twice: 1; u and v: 2/4; v twice: -1.
    assert (result.low, result.high) == (-1, 1)
    assert result.share_above_zero == pytest.approx(3 / 4, abs=0.01)
    # As many users as rows: the same as without names.
    a, b = random_ranks()
    named = paired_bootstrap(a, b, users=[f"u{row}" for row in range(len(a))])
    assert named == paired_bootstrap(a, b)


def test_seeds():
    a, b = random_ranks(60)
    assert paired_bootstrap(a, b, seed=3) == paired_bootstrap(a, b, seed=3)
    assert paired_bootstrap(a, b, seed=3) != paired_bootstrap(a, b, seed=4)


def test_resamples_are_drawn_in_parts(monkeypatch):
    a, b = random_ranks(60)
    whole = paired_bootstrap(a, b, num_resamples=100)
    monkeypatch.setattr("tsrec_hf.evaluation.bootstrap.MAX_DRAWN", 300)
    assert MAX_DRAWN > 300 and paired_bootstrap(a, b, num_resamples=100) == whole


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"metric": "mrr@10"}, "'hr@k' or 'ndcg@k', but found 'mrr@10'"),
        ({"metric": "ndcg"}, "but found 'ndcg'"),
        ({"metric": "hr@0"}, "at least 1, but found k=0"),
        ({"ranks_b": torch.tensor([0])}, r"found shapes \(2,\) and \(1,\)"),
        ({"num_resamples": 0}, "num_resamples=0"),
        ({"confidence": 95}, "confidence=95"),
        ({"users": ["u"]}, "found 1 users and 2 rows"),
    ],
)
def test_wrong_input(settings, words):
    with pytest.raises(ValueError, match=words):
        paired_bootstrap(**{"ranks_a": torch.tensor([0, 1]), "ranks_b": torch.tensor([1, 0]), **settings})
