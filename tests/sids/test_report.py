import json

import numpy as np
import pytest
from PIL import Image

from tsrec_hf.sids import ResidualKMeans, refuse_equal_vectors, sid_report
from tsrec_hf.sids.distinctness import equal_vector_share


# Two directions, a right angle apart; level 0 tells them apart, level 1 is noise.
EMBEDDINGS = np.array([[1, 0], [2, 0], [0, 1], [0, 3]], dtype=np.float32)
CODES = np.array([[0, 0], [0, 2], [3, 2], [3, 2]])


def test_figures_worked_by_hand() -> None:
    report = sid_report(CODES, EMBEDDINGS)
    assert (report.num_items, report.num_sids, report.largest_group, report.collision_rate) == (4, 3, 2, 0.25)
    assert report.level_sizes == [4, 3] and report.use == [2 / 4, 2 / 3]
    # Two codes of a half each; a quarter and three quarters: entropy 0.25 ln 4 + 0.75 ln (4 / 3) = 0.5623.
    assert report.perplexity == pytest.approx([2, np.exp(0.5623351)])
    assert report.entropy == pytest.approx([np.log(2) / np.log(4), 0.5623351 / np.log(3)])
    # Counts 0, 0, 2, 2: mean difference 16 / 16 over twice the mean of 1; counts 0, 1, 3: 12 / 9 over 8 / 3.
    assert report.gini == pytest.approx([0.5, 0.5])
    assert report.collision_rate_before is None and report.next_prefix_hits is None
    # Of the 12 ordered pairs 4 lie in one direction, with a cosine of 1; the others have 0.
    assert report.random_cosine == pytest.approx(4 / 12)
    assert report.prefix_cosine == pytest.approx([1, 1])
    # All three others are neighbours: one of them has the same first code, and for items 2 and 3 the same SID.
    assert report.neighbor_overlap == pytest.approx([1 / 3, 2 / 12]) == report.random_overlap
    assert report.reconstruction_error is None


def test_reconstruction_error_by_hand() -> None:
    # Around their mean 50 the points have squares 51^2 + 49^2 + 49^2 + 51^2 = 10004; level 0 leaves 4 of it.
    points = np.array([[-1.0], [1.0], [99.0], [101.0]])
    quantizer = ResidualKMeans([2, 2]).fit(points)
    codes = quantizer.encode(points)
    assert sid_report(codes, points, quantizer).reconstruction_error == pytest.approx([4 / 10004, 0])
    # An extra level that tells items apart is measured but not decoded.
    report = sid_report(np.column_stack([codes, [0, 0, 0, 4]]), points, quantizer)
    assert len(report.reconstruction_error) == 2 and report.level_sizes == [2, 2, 5]
    assert report.use[2] == 2 / 5


def test_neighbours_are_the_nearest_by_cosine() -> None:
    rng = np.random.default_rng(0)
    cluster = np.repeat(np.arange(30), 20)
    embeddings = rng.normal(size=(30, 16))[cluster] + rng.normal(scale=0.05, size=(600, 16))
    informed = sid_report(np.column_stack([cluster, np.arange(600)]), embeddings)
    assert informed.neighbor_overlap == [1, 0] and informed.random_overlap[0] == pytest.approx(19 / 599)
    assert informed.prefix_cosine[0] > 0.9 and abs(informed.random_cosine) < 0.2
    assert np.isnan(informed.prefix_cosine[1]) and informed.collision_rate == 0
    shuffled = sid_report(np.column_stack([rng.permutation(cluster), np.arange(600)]), embeddings)
    assert shuffled.neighbor_overlap[0] < 0.1 and shuffled.prefix_cosine[0] == pytest.approx(
        shuffled.random_cosine, abs=0.03
    )
    # A sample says about the same, and the same twice.
    codes = np.column_stack([rng.permutation(cluster), np.arange(600)])
    few, again, all_items = (sid_report(codes, embeddings, num_queries=number) for number in (200, 200, 600))
    assert few.neighbor_overlap == again.neighbor_overlap
    assert few.neighbor_overlap[0] == pytest.approx(all_items.neighbor_overlap[0], abs=0.02)


def test_table_plot_and_dictionary(tmp_path) -> None:
    report = sid_report(CODES, EMBEDDINGS)
    lines = str(report).splitlines()
    assert lines[0].startswith("4 items, 3 SIDs, collision rate 25.00%, at most 2 items a SID")
    assert lines[3] == "| 1 | 4 | 50.0% | 2.0 | 50.0% | 0.50 | - | 1.000 | 33.3% | 33.3% |"
    assert len({line.count("|") for line in lines[1:]}) == 1
    assert json.loads(json.dumps(report.to_dict()))["collision_rate"] == 0.25
    quantizer = ResidualKMeans([2, 2]).fit(EMBEDDINGS)
    for one in (report, sid_report(quantizer.encode(EMBEDDINGS), EMBEDDINGS, quantizer)):
        one.plot(tmp_path / "folder" / "report.png")
        with Image.open(tmp_path / "folder" / "report.png") as image:
            assert image.size[0] > image.size[1] > 300


def test_first_line_is_the_collision_rate_before_reassignment() -> None:
    points = np.array([[0.0], [0.0], [0.0], [10.0]])
    quantizer = ResidualKMeans([2, 2]).fit(points)
    report = sid_report(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), points, quantizer, texts=["same"] * 3 + ["other"])
    assert str(report).splitlines()[0] == "Collision rate before reassignment: 50.00%"
    assert report.collision_rate == 0 and report.to_dict()["collision_rate_before"] == 0.5


def test_next_prefixes_by_hand() -> None:
    # After a prefix 0 item comes one of prefix 1, whichever item: what item ids alone cannot tell.
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    ids = ["a", "b", "c", "d"]
    counted = [{"history": ["d", "a"], "target": "c"}]
    held_out = [{"history": ["b"], "target": "d"}, {"history": ["c"], "target": "a"}]
    report = sid_report(codes, EMBEDDINGS, interactions=counted, held_out=held_out, item_ids=ids)
    assert report.next_prefix_hits == [0.5, 0.0]
    assert len(report.shuffled_prefix_hits) == 2
    header, _, first = str(report).splitlines()[1:4]
    assert header.endswith("| next item's prefix | shuffled |") and "| 50.0% |" in first
    with pytest.raises(ValueError, match="`held_out` interactions and 4 `item_ids` beside `interactions`, found no"):
        sid_report(codes, EMBEDDINGS, interactions=counted)


def test_prefixes_of_what_is_taken_together_beat_shuffled_ones() -> None:
    rng = np.random.default_rng(0)
    kinds = np.repeat(np.arange(30), 20)
    codes = np.column_stack([kinds, np.tile(np.arange(20), 30)])
    ids = [str(number) for number in range(600)]
    # Customers stay with one kind.
    items = rng.integers(30, size=2000)[:, None] * 20 + rng.integers(20, size=(2000, 2))
    rows = [{"history": [ids[before]], "target": ids[after]} for before, after in items]
    report = sid_report(codes, rng.normal(size=(600, 8)), interactions=rows[:1500], held_out=rows[1500:], item_ids=ids)
    assert report.next_prefix_hits[0] == 1 and report.shuffled_prefix_hits[0] < 0.5


def test_codes_used_unevenly_are_warned_of(caplog) -> None:
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(200, 8))
    even = np.column_stack([np.arange(200) % 16, np.arange(200) % 13])
    sid_report(even, embeddings)
    assert not caplog.records
    uneven = even.copy()
    uneven[:190, 1] = 0
    sid_report(uneven, embeddings)
    assert "Codes are used unevenly (level 2: 1." in caplog.text and "ResidualKMeans(balanced=True)" in caplog.text


def test_equal_embeddings_are_warned_of(caplog) -> None:
    embeddings = np.repeat(np.eye(4), 5, axis=0)
    codes = np.column_stack([np.arange(20) % 4, np.arange(20) % 5])
    texts = [f"text {number // 5}" for number in range(20)]
    assert sid_report(codes, embeddings, texts=texts).equal_vectors == 0 and not caplog.records
    assert sid_report(codes, embeddings, texts=list(map(str, range(20)))).equal_vectors == 1
    assert "100% of the items have nearly the vector of a different text" in caplog.text
    assert "multilingual" in caplog.text
    with pytest.raises(ValueError, match="different vectors for different texts.*multilingual"):
        refuse_equal_vectors(embeddings, list(map(str, range(20))))
    refuse_equal_vectors(embeddings, texts)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"a row an embedding, found codes of shape \(3, 2\)"):
        sid_report(CODES[:3], EMBEDDINGS)
    with pytest.raises(ValueError, match="at least two items"):
        sid_report(CODES[:1], EMBEDDINGS[:1])
    with pytest.raises(ValueError, match="finite embeddings, found NaN or infinity in 4 of 4"):
        sid_report(CODES, EMBEDDINGS * np.nan)
    for codes in (CODES + 0.5, CODES - 1):
        with pytest.raises(ValueError, match="integers from 0 on"):
            sid_report(codes, EMBEDDINGS)


def test_equal_vectors_are_counted_on_a_sample_of_a_large_catalogue() -> None:
    vectors = np.concatenate([np.tile(np.eye(16)[:1], (50, 1)), np.random.default_rng(0).normal(size=(50, 16))])
    assert equal_vector_share(vectors) == 0.5
    assert 0.3 < equal_vector_share(vectors, num_queries=40) < 0.7
    assert equal_vector_share(vectors, num_queries=40) == equal_vector_share(vectors, num_queries=40)
