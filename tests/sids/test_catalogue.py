import importlib.util
import sys

import numpy as np
import pytest

from tsrec_hf.models import SIDIndex
from tsrec_hf.sids import propose_level_sizes, sid_report
from tsrec_hf.sids.catalogue import extend_index, load_embeddings, save_embeddings, write_report


def test_level_sizes_follow_the_number_of_items():
    # At least a code for 16 items up to 256, and at least twice as many SIDs as items.
    assert propose_level_sizes(20) == [4] * 3 and propose_level_sizes(40) == [8] * 3
    assert propose_level_sizes(1682) == [128] * 3 and propose_level_sizes(3686) == [256] * 3
    assert propose_level_sizes(10**6) == [256] * 3 and propose_level_sizes(10**7) == [512] * 3
    assert propose_level_sizes(100, num_levels=1) == [256] and propose_level_sizes(1, num_levels=2) == [4, 4]
    for wrong in ({"num_items": 0}, {"num_items": 5, "num_levels": 0}):
        with pytest.raises(ValueError, match="Expected at least one item and one level"):
            propose_level_sizes(**wrong)


def test_embeddings_of_another_index_are_refused(tmp_path):
    index = SIDIndex(["1", "2"], [[0, 0], [0, 1]])
    save_embeddings(tmp_path, np.eye(2), index)
    assert (load_embeddings(tmp_path, index) == np.eye(2)).all()
    permuted = SIDIndex(["2", "1"], [[0, 1], [0, 0]])
    with pytest.raises(ValueError, match=f"items of SID index {permuted.fingerprint} in its order"):
        load_embeddings(tmp_path, permuted)
    (tmp_path / "embeddings.json").unlink()
    with pytest.raises(FileNotFoundError, match="embeddings.json"):
        load_embeddings(tmp_path, index)
    with pytest.raises(ValueError, match="Expected 2 embeddings, one an item"):
        save_embeddings(tmp_path, np.eye(3), index)


def test_new_items_that_need_tokens_no_model_has_are_refused():
    class Wide:
        """A quantiser of four codes a level, which the earlier catalogue did not need."""

        level_sizes = [4, 4]

        def encode(self, embeddings):
            return np.full((len(embeddings), 2), 3)

    earlier = SIDIndex(["a", "b"], np.array([[0, 0], [1, 1]]))
    with pytest.raises(ValueError, match=r"fit into the levels .*2.* highest codes are \[3, 3\].*Make all SIDs anew"):
        extend_index(earlier, ["a", "b", "c"], np.eye(3), Wide(), collisions="keep")


def test_items_that_are_gone_leave_the_index_and_nothing_else_changes():
    earlier = SIDIndex(["a", "b"], np.array([[0, 0], [1, 1]]))
    later = extend_index(earlier, ["b"], np.eye(1), NearestOfTwo())
    assert list(later.item_ids) == ["b"] and later.sid_of("b") == earlier.sid_of("b")


class NearestOfTwo:
    """Codes of a vector on a line: on which side of 0, and of -1 or 1 on that side."""

    level_sizes = (2, 2)

    def encode(self, embeddings):
        numbers = embeddings[:, 0]
        return np.stack([numbers > 0, abs(numbers) > 1], axis=1).astype(int)


def test_a_renamed_item_keeps_its_sid():
    before = SIDIndex(["1", "2", "3"], [[0, 0], [0, 1], [1, 0]], titles=["Nut", "Bolt", "Saw"], counts=[5, 6, 7])
    vectors = np.array([[2.0], [-0.5], [0.5]])
    after = extend_index(before, ["4", "1", "3"], vectors, NearestOfTwo(), "keep", ["Glue", "Hex nut", "Saw"])
    assert after.item_ids == ["1", "3", "4"] and after.titles == ["Hex nut", "Saw", "Glue"]
    assert after.codes.tolist() == [[0, 0], [1, 0], [1, 1]] and after.counts.tolist() == [5, 7, 0]
    assert after.fits(before.fingerprint)
    # A new title alone makes no other catalogue.
    renamed = extend_index(before, ["1", "2", "3"], vectors, NearestOfTwo(), "keep", ["Hex nut", "Bolt", "Saw"])
    assert renamed.fingerprint == before.fingerprint and renamed.titles[0] == "Hex nut"


class Line:
    """Codes of numbers from 0 to 15, four by four, and the distances to them."""

    level_sizes = (4, 4)

    def encode(self, embeddings):
        return np.stack(np.divmod(embeddings[:, 0].round().astype(int), 4), axis=1)

    def misfit(self, embeddings, codes):
        return abs(embeddings[:, 0] - codes @ [4, 1])

    def distances(self, embeddings, prefixes):
        centres = prefixes @ [4] + np.arange(4)[:, None] if prefixes.shape[1] else 4 * np.arange(4)[:, None] + 1.5
        return abs(embeddings - centres.reshape(1, -1))


def weeks(index: SIDIndex, *catalogues: dict[str, float], **kwargs) -> SIDIndex:
    for catalogue in catalogues:
        vectors = np.array(list(catalogue.values()))[:, None]
        index = extend_index(index, list(catalogue), vectors, Line(), **kwargs)
    return index


@pytest.mark.parametrize("collisions", ["reassign", "sinkhorn"])
def test_a_sid_of_an_item_that_went_is_not_given_again(collisions):
    start = SIDIndex(["drill", "saw", "last"], [[0, 0], [1, 1], [3, 3]])
    monday = {"drill": 0.0, "last": 15.0}
    index = weeks(start, monday, monday | {"new saw": 5.0}, collisions=collisions)
    # The model knows `<a_1><b_1>` for the saw of last week: the new one gets a free SID beside it.
    assert index.sid_of("new saw") != start.sid_of("saw") and index.codes[-1, 0] == 1
    # The saw is back, in whatever text: the model knows it.
    index = weeks(index, monday | {"new saw": 5.0, "saw": 12.0}, collisions=collisions)
    assert index.sid_of("saw") == start.sid_of("saw") and index.delisted is None
    assert len({index.sid_of(item) for item in index.item_ids}) == 4


def test_sids_of_the_longest_gone_are_given_again_where_they_run_short():
    every = {f"item {place}": float(place) for place in range(16)}
    start = SIDIndex(list(every), [divmod(place, 4) for place in range(16)])
    first = {name: place for name, place in every.items() if name != "item 2"}
    second = {name: place for name, place in first.items() if name != "item 9"}
    index = weeks(start, first, second, second | {"new": 9.0})
    assert index.sid_of("new") == start.sid_of("item 2")
    # Its owner comes back to another SID, and no SID is left for one more.
    index = weeks(index, second | {"new": 9.0, "item 2": 2.0})
    assert index.sid_of("item 2") == start.sid_of("item 9")
    with pytest.raises(ValueError, match="at most 16 items"):
        weeks(index, second | {"new": 9.0, "item 2": 2.0, "more": 1.0})


def test_a_suffix_of_an_item_that_went_is_given_again_only_where_they_run_short():
    start = SIDIndex(["a", "b", "c", "far"], [[0, 0, 0], [0, 0, 1], [0, 0, 2], [3, 3, 0]])
    left = {"a": 0.0, "far": 15.0}
    index = weeks(start, left, collisions="suffix")
    assert index.delisted.item_ids == ["b", "c"]
    index = weeks(index, left | {"near": 14.8, "d": 0.2}, collisions="suffix")
    # Of three suffixes all were used below `<a_0><b_0>`.
    assert index.codes.tolist() == [[0, 0, 0], [3, 3, 0], [3, 3, 1], [0, 0, 1]]


def test_a_full_suffix_takes_nothing_from_other_prefixes():
    codes = [[0, 0, 0], [0, 0, 1], [0, 0, 2], [3, 3, 0], [3, 3, 1]]
    start, left = SIDIndex(["a", "b", "c", "far", "e"], codes), {"a": 0.0, "far": 15.0}
    index = weeks(start, left, collisions="suffix")
    both = weeks(index, left | {"near": 14.8, "d": 0.2}, collisions="suffix")
    assert both.codes[2:].tolist() == [[3, 3, 2], [0, 0, 1]]
    # Beside one that is back: the free suffix, also below the highest in use.
    back = weeks(index, left | {"c": 0.0, "n": 0.1}, collisions="suffix")
    assert back.sid_of("c") == start.sid_of("c") and back.sid_of("n") == start.sid_of("b")
    with pytest.raises(ValueError, match=r"highest codes are \[0, 0, 3\]"):
        weeks(back, left | {"c": 0.0, "n": 0.1, "more": 0.0}, collisions="suffix")


def test_two_items_that_are_back_share_no_sid():
    every = {f"item {place}": float(place) for place in range(16)}
    start = SIDIndex(list(every), [divmod(place, 4) for place in range(16)])
    first = {name: place for name, place in every.items() if name != "item 2"}
    index = weeks(start, first, first | {"new": 2.0})
    assert index.sid_of("new") == start.sid_of("item 2")  # the one that is free
    few = {name: place for name, place in first.items() if name not in ("item 3", "item 9")}
    index = weeks(index, few, few | {"new": 2.0, "item 2": 2.0})
    assert not index.collisions() and index.sid_of("new") == start.sid_of("item 2")


def test_an_item_that_is_back_shares_its_sid_again_where_items_may():
    start = SIDIndex(["a", "b", "c"], [[0, 0], [0, 0], [3, 3]])
    left = {"a": 0.0, "c": 15.0}
    index = weeks(start, left, left | {"b": 7.0}, collisions="keep")
    assert index.sid_of("b") == start.sid_of("b")


def test_a_sid_that_no_item_ever_had_goes_first():
    ids = [f"item {place}" for place in range(16) if place != 7]
    start = SIDIndex(ids, [divmod(place, 4) for place in range(16) if place != 7])
    index = start.without_items(["item 5"]).without_items(["item 9"]).with_items(["hand"], codes=[[2, 1]])
    catalogue = {item: 9.0 if item == "hand" else float(item.split()[1]) for item in index.item_ids}
    assert weeks(index, catalogue | {"new": 5.0}).sid_of("new") == "<a_1><b_3>"


def test_a_report_without_matplotlib_has_no_plot(tmp_path, monkeypatch, caplog):
    embeddings = np.random.default_rng(0).normal(size=(12, 4))
    report = sid_report(np.stack([np.arange(12) % 3, np.arange(12) // 3], axis=1), embeddings)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    write_report(tmp_path, report, "text")
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "report.json"}
    assert 'pip install ".[plots]"' in caplog.text
    with pytest.raises(ImportError, match="needs matplotlib"):
        report.plot(tmp_path / "report.png")
