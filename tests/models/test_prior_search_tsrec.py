"""Search with an item prior: exact search equals brute force over all items, and beams keep what the prior lifts."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from datasets import Dataset

from tsrec_hf import NextItemPrior, SIDIndex, TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.models import MixedPrior, PopularityPrior, search_tsrec
from tsrec_hf.models.given_priors_tsrec import as_prior
from tsrec_hf.models.prior_search_tsrec import Fusion, SearchPrior


NUM_ITEMS = 60
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def index() -> SIDIndex:
    codes = np.random.default_rng(3).integers(0, 4, (NUM_ITEMS, 3))
    index = SIDIndex([f"i{number}" for number in range(NUM_ITEMS)], codes)
    assert len(index.collisions()) > 5
    return index


@pytest.fixture(scope="module")
def recommender(index, save_backbone, tmp_path_factory):
    folder = save_backbone(tmp_path_factory.mktemp("fused"))
    tokenizer = TSRecTokenizer.from_backbone(f"{folder}/tokenizer", index)
    model = TSRecForCausalLM.from_backbone(folder, tokenizer)
    torch.manual_seed(1)
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.sid_token_ids[0][0] :].normal_(std=0.3)
    return model, tokenizer


@pytest.fixture(scope="module")
def histories(index) -> list[list[str]]:
    rng = np.random.default_rng(0)
    return [list(rng.choice(index.item_ids, length)) for length in (1, 5, 3, 7, 2, 9)]


@pytest.fixture(scope="module")
def log(index) -> Dataset:
    rng = np.random.default_rng(1)
    items = rng.choice(index.item_ids, (80, 6), p=(weights := np.arange(1.0, NUM_ITEMS + 1)) / weights.sum())
    return Dataset.from_dict({"history": [list(row[:-1]) for row in items], "target": [row[-1] for row in items]})


def prior_named(name: str, index: SIDIndex, log: Dataset, num_users: int):
    rng = np.random.default_rng(2)
    transitions, popularity = NextItemPrior.fit(log, index), PopularityPrior.fit(log, index)
    return {
        "shared": rng.gamma(0.3, size=NUM_ITEMS),
        "per user": rng.gamma(0.3, size=(num_users, NUM_ITEMS)),
        "zeros": (rng.random(NUM_ITEMS) < 0.3).astype(float),
        "boosts": {"i3": 50.0, "i7": 0.0, "i9": 0.01},
        "boosts per user": [{f"i{user}": 80.0, f"i{user + 20}": 0.0} for user in range(num_users)],
        "tiny per user": [{f"i{n}": 1e-9 * (1 + n % 7) for n in range(NUM_ITEMS)} for _ in range(num_users)],
        "callable": lambda histories: np.array(
            [[len(h) + number % 7 for number in range(NUM_ITEMS)] for h in histories]
        ),
        "transitions": transitions,
        # Nothing that all users share: what no rule closes has a weight of 0 all the same.
        "transitions alone": NextItemPrior.fit(log, index, trace=0.0),
        "popularity": popularity,
        "mixed": MixedPrior([transitions, popularity], [1.0, 0.3]),
    }[name]


PRIORS = [
    "shared",
    "per user",
    "zeros",
    "boosts",
    "boosts per user",
    "callable",
    "tiny per user",
    "transitions",
    "transitions alone",
    "popularity",
    "mixed",
]
RULES = {
    "": {},
    "shared rules": {"allowed_items": [f"i{n}" for n in range(5, 50)], "exclude_items": ["i6", "i30"]},
    "histories": {"exclude_history": True},
    "both": {"exclude_history": True, "exclude_items": [f"i{n}" for n in range(0, 60, 3)]},
    "sets per user": {"allowed_items": [[f"i{n}" for n in range(user, 60, 4)] for user in range(6)]},
}


def log_probs_of(model, tokenizer, histories, scoring="catalogue") -> list[dict[str, float]]:
    """Every item's log-probability, by an exact search for all items without a prior."""
    rows = model.recommend(tokenizer, histories, top_k=NUM_ITEMS, search="exact", scoring=scoring, prior=None)
    assert all(len(row) == NUM_ITEMS for row in rows)
    return [{item.item_id: item.score for item in row} for row in rows]


def brute_force(model, tokenizer, histories, prior, form, weight, rules, scoring="catalogue"):
    """All items that the rules leave, ranked by the formula; those of a SID share its probability."""
    index = tokenizer.sid_index
    weights = as_prior(prior, index).weights_of(histories, list(range(len(histories)))).to_dense().double().numpy()
    sizes = Counter(map(index.sid_of, index.item_ids))
    ranked = []
    for user, log_probs in enumerate(log_probs_of(model, tokenizer, histories, scoring)):
        allowed = rules.get("allowed_items", index.item_ids)
        allowed = set(allowed[user] if isinstance(allowed[0], list) else allowed) - set(rules.get("exclude_items", ()))
        allowed -= set(histories[user]) if rules.get("exclude_history") else set()
        scores = {}
        for item in allowed:
            own = weights[user, index.position_of(item)]
            log_prob = log_probs[item] - math.log(sizes[index.sid_of(item)])
            if form == "log_linear":
                scores[item] = log_prob + weight * math.log(own) if own > 0 else -math.inf
            else:
                scores[item] = math.log(math.exp(log_prob) + weight * own)
        ranked.append(sorted(((score, item) for item, score in scores.items() if score > -math.inf), reverse=True))
    return ranked


def assert_equals(found, expected, top_k: int) -> None:
    for row, best in zip(found, expected, strict=True):
        assert len(row) == min(top_k, len(best))
        assert [item.score for item in row] == pytest.approx([score for score, _ in best[:top_k]], abs=TOLERANCE)
        score_of = {item: score for score, item in best}
        assert all(item.score == pytest.approx(score_of[item.item_id], abs=TOLERANCE) for item in row)
        assert len({item.item_id for item in row}) == len(row)


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("form, weight", [("log_linear", 1.0), ("log_linear", 0.3), ("mixture", 0.05)])
@pytest.mark.parametrize("name", PRIORS)
def test_exact_search_equals_brute_force(recommender, histories, index, log, name, form, weight, rules) -> None:
    model, tokenizer = recommender
    prior, rules = prior_named(name, index, log, len(histories)), RULES[rules]
    expected = brute_force(model, tokenizer, histories, prior, form, weight, rules)
    for top_k, num_beams in ((7, 4), (NUM_ITEMS, 10)):
        found = model.recommend(
            tokenizer,
            histories,
            top_k=top_k,
            num_beams=num_beams,
            search="exact",
            prior=prior,
            prior_form=form,
            prior_weight=weight,
            **rules,
        )
        assert_equals(found, expected, top_k)


@pytest.mark.parametrize("pruned", [True, False])
@pytest.mark.parametrize("scoring", ["vocabulary", "catalogue"])
@pytest.mark.parametrize("name", PRIORS)
def test_wide_beams_equal_brute_force(recommender, histories, index, log, monkeypatch, name, scoring, pruned) -> None:
    """With as many beams as SIDs nothing is cut, whatever the batch, pruned or not."""
    model, tokenizer = recommender
    monkeypatch.setattr(search_tsrec, "MIN_ROWS_TO_PRUNE", 1 if pruned else 10_000)
    monkeypatch.setattr(search_tsrec, "USERS_OF_A_PACK", 2)
    prior = prior_named(name, index, log, len(histories))
    for form, weight, rules in (
        ("log_linear", 0.7, "both"),
        ("mixture", 0.1, ""),
        ("log_linear", 1.0, "sets per user"),
    ):
        expected = brute_force(model, tokenizer, histories, prior, form, weight, RULES[rules], scoring)
        for batch_size in (4, 1):
            found = model.recommend(
                tokenizer,
                histories,
                top_k=10,
                num_beams=NUM_ITEMS,
                batch_size=batch_size,
                scoring=scoring,
                prior=prior,
                prior_form=form,
                prior_weight=weight,
                **RULES[rules],
            )
            assert_equals(found, expected, 10)


def test_a_lifted_item_is_found_where_beams_alone_would_not_reach_it(recommender, histories) -> None:
    model, tokenizer = recommender
    # The least probable item of each user: one beam finds it, with its exact log-probability.
    worst = [min(row.items(), key=lambda pair: pair[1]) for row in log_probs_of(model, tokenizer, histories)]
    found = model.recommend(
        tokenizer, histories, top_k=1, num_beams=1, prior=[{item: 1e9} for item, _ in worst], prior_weight=1.0
    )
    index = tokenizer.sid_index
    sizes = Counter(map(index.sid_of, index.item_ids))
    for [best], (item, log_prob) in zip(found, worst):
        own = log_prob - math.log(sizes[best.sid])
        assert best.item_id == item and best.log_prob == pytest.approx(own, abs=TOLERANCE)
        assert best.log_prior == pytest.approx(math.log(1e9), abs=1e-3)
        assert best.score == pytest.approx(best.log_prob + best.log_prior, abs=1e-4)


def test_items_that_share_a_sid_have_scores_of_their_own(recommender, index, histories) -> None:
    model, tokenizer = recommender
    items = next(iter(index.collisions().values()))
    prior = {item: 2.0**number for number, item in enumerate(items, 10)}
    [row] = model.recommend(tokenizer, histories[:1], top_k=len(items), prior=prior)
    assert [r.item_id for r in row] == items[::-1]
    assert [a.score - b.score for a, b in zip(row, row[1:])] == pytest.approx(
        [math.log(2)] * (len(items) - 1), abs=1e-4
    )


def test_items_that_share_a_sid_share_its_probability(recommender, index, histories) -> None:
    model, tokenizer = recommender
    sizes = Counter(map(index.sid_of, index.item_ids))
    assert max(sizes.values()) > 1
    for form in ("log_linear", "mixture"):
        rows = model.recommend(
            tokenizer, histories, top_k=NUM_ITEMS, search="exact", prior=np.ones(NUM_ITEMS), prior_form=form
        )
        for row, log_probs in zip(rows, log_probs_of(model, tokenizer, histories), strict=True):
            assert sum(math.exp(item.log_prob) for item in row) == pytest.approx(1, abs=1e-4)
            for item in row:
                own = log_probs[item.item_id] - math.log(sizes[item.sid])
                assert item.log_prob == pytest.approx(own, abs=TOLERANCE)


def test_bounds_are_the_best_items_below_each_prefix(index) -> None:
    weights = np.random.default_rng(5).random(NUM_ITEMS)
    node_prior = SearchPrior(index.trie, Fusion()).batch(as_prior(weights, index).weights_of([["i0"]], [0]), [0])
    trie, sizes = index.trie, Counter(map(index.sid_of, index.item_ids))
    nodes = torch.arange(trie.num_nodes)
    found = node_prior(nodes.unsqueeze(0), torch.zeros(1, trie.num_nodes))[0]
    paths = torch.cat([torch.zeros(NUM_ITEMS, 1, dtype=torch.long), trie.paths_of(torch.arange(NUM_ITEMS))], dim=1)
    for node in range(trie.num_nodes):
        below = (paths == node).any(1).numpy()
        share = 1 / min(sizes[index.sid_of(index.item_ids[item])] for item in np.flatnonzero(below))
        assert found[node].item() == pytest.approx(math.log(weights[below].max() * share), abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"prior": np.ones(3)}, ValueError, r"shape \(60,\)"),
        ({"prior": np.full(NUM_ITEMS, np.nan)}, ValueError, "finite and at least 0"),
        ({"prior": {"spoon": 1.0}}, KeyError, "'spoon'"),
        ({"prior": "popular"}, ValueError, "'fitted', None or an item prior, but found 'popular'"),
        ({"prior": 3}, TypeError, "but found `int`"),
        ({"prior": np.ones(NUM_ITEMS), "prior_form": "product"}, ValueError, "'log_linear', 'mixture'.*'product'"),
        ({"prior": np.ones(NUM_ITEMS), "prior_weight": 0.0}, ValueError, "positive, finite weight.*found 0.0"),
        ({"prior": np.ones(NUM_ITEMS), "prior_weight": float("nan")}, ValueError, "positive, finite weight"),
    ],
)
def test_errors(recommender, histories, arguments, error, match) -> None:
    model, tokenizer = recommender
    with pytest.raises(error, match=match):
        model.recommend(tokenizer, histories, top_k=3, **arguments)


def test_a_prior_of_another_index(recommender, index, log, histories) -> None:
    model, tokenizer = recommender
    other = NextItemPrior.fit(log, SIDIndex(index.item_ids, index.codes[::-1]))
    with pytest.raises(ValueError, match="one of another.*Fit the prior on this catalogue"):
        model.recommend(tokenizer, histories, prior=other)


class TestInCheckpoints:
    @pytest.fixture
    def fitted(self, recommender, index, log, tmp_path):
        model, tokenizer = recommender
        tokenizer.set_prior(NextItemPrior.fit(log, index), "mixture", 0.2)
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        yield model, tokenizer, tmp_path
        tokenizer.set_prior(None)

    def test_it_travels_and_is_the_default(self, fitted, histories) -> None:
        model, tokenizer, folder = fitted
        expected = model.recommend(tokenizer, histories, top_k=5)
        assert expected == model.recommend(
            tokenizer, histories, top_k=5, prior=tokenizer.prior, prior_form="mixture", prior_weight=0.2
        )
        assert expected != model.recommend(tokenizer, histories, top_k=5, prior=None)
        loaded = TSRecTokenizer.from_pretrained(folder)
        assert (loaded.prior_fusion.form, loaded.prior_fusion.weight) == ("mixture", 0.2)
        assert TSRecForCausalLM.from_pretrained(folder).recommend(loaded, histories, top_k=5) == expected
        loaded.save_pretrained(folder / "again")
        assert TSRecTokenizer.from_pretrained(folder / "again").prior_fusion == loaded.prior_fusion

    def test_one_that_is_removed_is_gone_from_the_folder(self, fitted) -> None:
        _, tokenizer, folder = fitted
        tokenizer.set_prior(None)
        tokenizer.save_pretrained(folder)
        assert TSRecTokenizer.from_pretrained(folder).prior is None

    def test_it_grows_with_the_catalogue(self, fitted, histories) -> None:
        model, tokenizer, folder = fitted
        loaded = TSRecTokenizer.from_pretrained(folder)
        loaded.sid_index = loaded.sid_index.with_items(["new"], codes=[[0, 0, 0]]).without_items(["i59"])
        assert loaded.prior.index is loaded.sid_index
        rows = model.recommend(loaded, [["new"], *histories[:1]], top_k=60, num_beams=60)
        assert {item.item_id for item in rows[0]} == set(loaded.sid_index.item_ids)
        loaded.save_pretrained(folder / "grown")
        assert TSRecTokenizer.from_pretrained(folder / "grown").prior.weights([["new"]]).shared.shape == (60,)

    def test_the_pipeline_uses_it(self, fitted, histories) -> None:
        from transformers import pipeline

        model, tokenizer, _ = fitted
        recommend = pipeline("recommendation", model=model, tokenizer=tokenizer, device="cpu")
        [expected] = model.recommend(tokenizer, histories[:1], top_k=4)
        assert recommend(histories[0], top_k=4) == [item._asdict() for item in expected]
        assert recommend(histories[0], top_k=4, prior=None)[0]["log_prior"] is None
