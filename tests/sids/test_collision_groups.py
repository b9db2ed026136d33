import numpy as np
import pytest

from tsrec_hf.sids import ResidualKMeans, collision_groups, resolve_collisions


def resolved_apart(codes, embeddings, quantizer, policy):
    groups = collision_groups(codes, quantizer.level_sizes, policy)
    width = codes.shape[1] + (policy == "suffix")
    result = np.zeros((len(codes), width), dtype=np.int32)
    result[:, : codes.shape[1]] = codes
    for group in range(groups.max() + 1):
        rows = np.flatnonzero(groups == group)
        result[rows] = resolve_collisions(codes[rows], embeddings[rows], quantizer, policy)
    return result, groups


@pytest.mark.parametrize("policy", ["reassign", "sinkhorn", "suffix", "keep"])
@pytest.mark.parametrize("sizes", [[8, 8, 8], [16, 8], [4, 4, 4, 8], [400]])
@pytest.mark.parametrize("seed", [0, 1])
def test_groups_apart_have_the_codes_of_all_together(policy, sizes, seed):
    generator = np.random.default_rng(seed)
    number = min(400, int(0.8 * np.prod(sizes)))
    # Some clusters are far too large for their prefix, and some items are equal to others.
    centers = generator.normal(size=(12, 6))
    embeddings = centers[generator.integers(12, size=number) ** 2 // 12] + 0.05 * generator.normal(size=(number, 6))
    embeddings[: number // 10] = embeddings[number // 10 : 2 * (number // 10)]
    quantizer = ResidualKMeans(sizes, seed=seed, balanced=False).fit(np.resize(embeddings, (max(number, 400), 6)))
    codes = quantizer.encode(embeddings)
    together = resolve_collisions(codes, embeddings, quantizer, policy)
    apart, groups = resolved_apart(codes, embeddings, quantizer, policy)
    assert (apart == together).all()
    if policy != "keep" and len(sizes) > 1:
        assert groups.max() > 0 or policy != "suffix"


def test_groups_are_as_small_as_they_can_be():
    # Behind (0, 0) there is room for two items, and there are three: they spread behind 0. Behind 1 all have room.
    codes = np.array([[0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 1], [1, 0, 1], [1, 1, 0], [2, 0, 0]])
    assert collision_groups(codes, [3, 2, 2]).tolist() == [1, 1, 1, 1, 0, 0, -1, -1]


def test_more_items_than_sids():
    with pytest.raises(ValueError, match="at most 4 items.* found 5"):
        collision_groups(np.zeros((5, 2), dtype=int), [2, 2])
    with pytest.raises(ValueError, match="`policy` among"):
        collision_groups(np.zeros((5, 2), dtype=int), [9, 9], "other")


def test_misfit_of_an_item_does_not_depend_on_the_others():
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(200, 37))
    quantizer = ResidualKMeans([4, 4]).fit(embeddings)
    codes = quantizer.encode(embeddings)
    alone = [quantizer.misfit(embeddings[row : row + 1], codes[row : row + 1])[0] for row in range(200)]
    assert quantizer.misfit(embeddings, codes).tolist() == alone
    distances = quantizer.distances(embeddings, codes[:, :-1])[np.arange(200), codes[:, -1]]
    assert quantizer.misfit(embeddings, codes) == pytest.approx(distances, rel=1e-4)
