"""New items, removed items and other catalogues, without training."""

import math

import pytest

from tsrec_hf.models import SIDIndex, TSRecForCausalLM, TSRecTokenizer


def ids_of(rows) -> list[list[str]]:
    return [[recommendation.item_id for recommendation in row] for row in rows]


def test_a_new_item_is_recommended_at_once(model, tokenizer, tmp_path) -> None:
    histories = [["hammer", "nail"], ["apple"]]
    before = model.recommend(tokenizer, histories, top_k=8, scoring="vocabulary")
    tokenizer.sid_index = tokenizer.sid_index.with_items(["axe"], codes=[[1, 2, 0]], titles=["sharp axe"])
    after = model.recommend(tokenizer, histories, top_k=9, scoring="vocabulary")
    for old, new in zip(before, after):
        # It takes its place among the others, whose scores are as they were.
        others = [r for r in new if r.item_id != "axe"]
        assert ids_of([others]) == ids_of([old])
        assert [r.score for r in others] == pytest.approx([r.score for r in old], abs=1e-5)
        assert sorted((r.score for r in new), reverse=True) == [r.score for r in new]
        assert "axe" in ids_of([new])[0]
    # By the default scoring its probability comes from its siblings: those of the whole catalogue still add up to 1.
    for row in model.recommend(tokenizer, histories, top_k=9):
        by_sid = {r.sid: math.exp(r.score) for r in row}
        assert "axe" in ids_of([row])[0] and sum(by_sid.values()) == pytest.approx(1, abs=1e-5)
    # It may be in a history, too, and everything is saved.
    expected = model.recommend(tokenizer, [["axe"]], top_k=9)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, saved = TSRecForCausalLM.from_pretrained(tmp_path), TSRecTokenizer.from_pretrained(tmp_path)
    assert saved.sid_index == tokenizer.sid_index and loaded.recommend(saved, [["axe"]], top_k=9) == expected
    # And grows on from there.
    saved.sid_index = saved.sid_index.with_items(["drill"], codes=[[0, 2, 0]])
    assert "drill" in ids_of(loaded.recommend(saved, [["axe"]], top_k=10))[0]


def test_a_removed_item_is_gone(model, tokenizer) -> None:
    [before] = model.recommend(tokenizer, [["hammer"]], top_k=8, scoring="vocabulary")
    tokenizer.sid_index = tokenizer.sid_index.without_items(
        ["nail", "cheese"]
    )  # nail's SID stays, by screw; cheese's goes
    [after] = model.recommend(tokenizer, [["hammer"]], top_k=8, scoring="vocabulary")
    assert ids_of([after])[0] == [r.item_id for r in before if r.item_id not in ("nail", "cheese")]
    with pytest.raises(KeyError, match="'nail' is not among the 6 items"):
        model.recommend(tokenizer, [["nail"]])


def test_add_train_add_again(backbone_dir, sid_index, tmp_path) -> None:
    """A checkpoint made for a grown index takes indexes that grew further, in memory and from disk."""
    grown = sid_index.with_items(["axe"], codes=[[1, 2, 0]])
    tokenizer = TSRecTokenizer.from_backbone(backbone_dir, grown)
    model = TSRecForCausalLM.from_backbone(backbone_dir, tokenizer)
    assert model.config.sid_index_fingerprint == grown.fingerprint
    tokenizer.sid_index = tokenizer.sid_index.with_items(["drill"], codes=[[0, 2, 0]])
    expected = model.recommend(tokenizer, [["axe"]], top_k=10)
    assert "drill" in ids_of(expected)[0]
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, saved = TSRecForCausalLM.from_pretrained(tmp_path), TSRecTokenizer.from_pretrained(tmp_path)
    saved.sid_index = saved.sid_index.with_items(["file"], codes=[[0, 2, 1]])
    assert len(loaded.recommend(saved, [["axe"]], top_k=20)[0]) == 11


def test_only_descendants_may_be_set(tokenizer, sid_index) -> None:
    with pytest.raises(ValueError, match="grew out of this tokenizer's.*`with_sid_index`"):
        tokenizer.sid_index = SIDIndex(["x"], [[0, 0, 0]])
    with pytest.raises(TypeError, match="`SIDIndex`, but found `list`"):
        tokenizer.sid_index = [[0, 0, 0]]
    assert tokenizer.sid_index == sid_index


def test_another_catalogue_of_the_same_tokens(model, tokenizer, sid_index, tmp_path) -> None:
    other = SIDIndex(["plum", "bolt", "fig"], [[1, 0, 0], [0, 1, 0], [1, 2, 0]], titles=["plum", "bolt", "fig"])
    with pytest.raises(ValueError, match="`with_sid_index`"):
        strange = TSRecTokenizer.from_backbone(model.config.backbone_config._name_or_path, other)
        model.check_tokenizer(strange)
    transferred = tokenizer.with_sid_index(other)
    assert transferred.sid_index == other and tokenizer.sid_index == sid_index and other.ancestors == ()
    [found] = model.recommend(transferred, [["bolt"]], top_k=3, scoring="vocabulary")
    assert sorted(ids_of([found])[0]) == ["bolt", "fig", "plum"]
    # The same prompt in the first catalogue scores the shared SIDs alike.
    scores = {r.sid: r.score for r in model.recommend(tokenizer, [["nail"]], top_k=8, scoring="vocabulary")[0]}
    shared = [r for r in found if r.sid in scores]
    assert len(shared) == 2 and all(r.score == pytest.approx(scores[r.sid], abs=1e-5) for r in shared)
    transferred.save_pretrained(tmp_path)
    saved = TSRecTokenizer.from_pretrained(tmp_path)
    assert model.recommend(saved, [["bolt"]], top_k=3, scoring="vocabulary") == [found]


@pytest.mark.parametrize(
    ("index", "match"),
    [
        (SIDIndex(["x"], [[0, 0]]), "an index of 3 levels.*found 2"),
        (SIDIndex(["x", "y"], [[0, 0, 0], [3, 0, 0]]), "2 of 4 tokens of level 0 are unknown.*'<a_2>'"),
        (SIDIndex(["x"], [[0, 0, 0]], tokens=[["<b_0>"], ["<a_0>"], ["<c_0>"]]), "level 0 are unknown.*'<b_0>'"),
    ],
)
def test_other_tokens_are_refused(tokenizer, index, match) -> None:
    with pytest.raises(ValueError, match=match):
        tokenizer.with_sid_index(index)
