import copy
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tsrec_hf.models import SIDIndex, SIDTrie


INDUSTRIAL = os.environ.get("TSREC_DATA")
needs_data = pytest.mark.skipif(
    not INDUSTRIAL, reason="TSREC_DATA does not name the folder of Industrial_and_Scientific"
)

# Sizes of 2 to 8 levels; the products of the last two do not fit into 63 bits.
LEVEL_SIZES = [
    (5, 7),
    (3, 1, 4),
    (2, 9, 4, 3),
    (4, 3, 2, 5, 2),
    (2, 2, 2, 2, 2, 2),
    (3, 1, 2, 1, 3, 2, 4),
    (2, 3, 1, 2, 2, 3, 2, 2),
    (2**31, 2**31, 2**31),
    (3, 2**30, 2**31, 2, 2**20),
]


def random_codes(seed: int, sizes: tuple[int, ...], num_items: int = 60) -> np.ndarray:
    """Codes with shared prefixes and shared SIDs: each level draws from five of its codes at most."""
    rng = np.random.default_rng(seed)
    columns = [rng.choice(rng.integers(0, size, size=5), size=num_items) for size in sizes]
    codes = np.stack(columns, axis=1)
    codes[0] = np.array(sizes) - 1  # the highest code of each level
    return codes


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


class TestSIDIndex:
    def test_facts_worked_by_hand(self, sid_index: SIDIndex) -> None:
        assert len(sid_index) == 8 and "hammer" in sid_index and "spoon" not in sid_index
        assert sid_index.item_ids == ["hammer", "nail", "screw", "saw", "apple", "pear", "bread", "cheese"]
        assert sid_index.codes.dtype == np.int32 and sid_index.codes[3].tolist() == [0, 0, 1]
        assert sid_index.num_levels == 3 and sid_index.level_sizes == (2, 3, 2)
        assert sid_index.tokens == [["<a_0>", "<a_1>"], ["<b_0>", "<b_1>", "<b_2>"], ["<c_0>", "<c_1>"]]
        assert sid_index.sid_of("cheese") == "<a_1><b_2><c_1>"
        assert sid_index.position_of("saw") == 3 and sid_index.positions_of(["saw", "nail"]) == [3, 1]
        assert repr(sid_index) == "SIDIndex(8 items, 3 levels of 2 x 3 x 2 tokens)"

    def test_items_of_a_sid_by_string_and_by_codes(self, sid_index: SIDIndex) -> None:
        assert sid_index.items_of("<a_0><b_1><c_0>") == ["nail", "screw"]
        for codes in ([0, 1, 0], (0, 1, 0), np.array([0, 1, 0]), torch.tensor([0, 1, 0]), sid_index.codes[1]):
            assert sid_index.items_of(codes) == ["nail", "screw"]
        assert sid_index.items_of("<a_1><b_2><c_0>") == []  # Known tokens, no item.
        assert sid_index.items_of((1, 2, 0)) == []

    def test_items_of_a_sid_come_in_index_order(self) -> None:
        index = SIDIndex(["z", "b", "y", "a"], [[1, 0], [0, 0], [1, 0], [1, 0]])
        assert index.items_of("<a_1><b_0>") == ["z", "y", "a"]
        assert index.collisions() == {"<a_1><b_0>": ["z", "y", "a"]}

    def test_collisions(self, sid_index: SIDIndex) -> None:
        assert sid_index.collisions() == {"<a_0><b_1><c_0>": ["nail", "screw"]}
        assert SIDIndex(["1", "2"], [[0, 0], [0, 1]]).collisions() == {}

    @pytest.mark.parametrize("sizes", LEVEL_SIZES[:7], ids=str)
    def test_against_dictionaries(self, sizes: tuple[int, ...]) -> None:
        for seed in range(5):
            codes = random_codes(seed, sizes)
            index = SIDIndex([f"item {row}" for row in range(len(codes))], codes)
            carriers: dict[str, list[str]] = {}
            for row, item_codes in enumerate(codes.tolist()):
                sid = "".join(f"<{letter}_{code}>" for letter, code in zip("abcdefgh", item_codes))
                assert index.sid_of(f"item {row}") == sid == index.spell(item_codes)
                assert index.parse(sid) == tuple(item_codes)
                carriers.setdefault(sid, []).append(f"item {row}")
            assert index.level_sizes == sizes
            assert {sid: index.items_of(sid) for sid in carriers} == carriers
            assert index.collisions() == {sid: items for sid, items in carriers.items() if len(items) > 1}

    def test_a_changed_array_does_not_change_the_index(self) -> None:
        codes = np.zeros((2, 2), dtype=np.int32)
        index = SIDIndex(["1", "2"], codes, tokens=[["<a_0>", "<a_1>"], ["<b_0>"]])
        codes[0, 0] = 1
        assert index.sid_of("1") == "<a_0><b_0>" and index.items_of("<a_0><b_0>") == ["1", "2"]

    def test_equality_is_of_every_part(self, sid_index: SIDIndex) -> None:
        ids, codes = sid_index.item_ids, sid_index.codes
        assert SIDIndex(ids, codes, titles=sid_index.titles) == sid_index
        assert SIDIndex(ids, codes) != sid_index
        assert SIDIndex(ids, codes[::-1], titles=sid_index.titles) != sid_index
        assert SIDIndex(ids[::-1], codes, titles=sid_index.titles) != sid_index
        spelled = [[token.replace("_", "-") for token in level] for level in sid_index.tokens]
        assert SIDIndex(ids, codes, spelled, sid_index.titles) != sid_index
        assert sid_index != "index"

    def test_fingerprint_is_of_what_is_recommended(self, sid_index: SIDIndex) -> None:
        ids, codes = sid_index.item_ids, sid_index.codes
        assert SIDIndex(ids, codes.astype(np.int64)).fingerprint == sid_index.fingerprint  # Titles do not matter.
        assert SIDIndex(ids[::-1], codes).fingerprint != sid_index.fingerprint
        assert SIDIndex(ids, codes[::-1]).fingerprint != sid_index.fingerprint
        wider = [*sid_index.tokens[:2], [*sid_index.tokens[2], "<c_2>"]]
        assert SIDIndex(ids, codes, wider).fingerprint != sid_index.fingerprint

    @pytest.mark.parametrize("clone", [copy.deepcopy, lambda index: pickle.loads(pickle.dumps(index))])
    def test_pickle_and_deepcopy(self, sid_index: SIDIndex, clone) -> None:
        before = pickle.dumps(sid_index)
        assert sid_index.items_of("<a_0><b_1><c_0>") and sid_index.fingerprint and "nail" in sid_index
        other = clone(sid_index)
        assert other == sid_index and other.items_of("<a_0><b_1><c_0>") == ["nail", "screw"]
        assert other.fingerprint == sid_index.fingerprint
        assert pickle.dumps(sid_index) == before  # Look-ups made in between are left out.


class TestErrors:
    @pytest.mark.parametrize("item_id", ["spoon", "", None, 3, ["hammer"]])
    def test_unknown_item(self, sid_index: SIDIndex, item_id) -> None:
        with pytest.raises(KeyError, match=r"not among the 8 items.*sid_index\.item_ids"):
            sid_index.sid_of(item_id)
        with pytest.raises(KeyError, match="not among the 8 items"):
            sid_index.positions_of(["nail", item_id])

    def test_a_number_in_place_of_a_string_is_told(self) -> None:
        with pytest.raises(KeyError, match="did you mean '7'"):
            SIDIndex(["7", "8"], [[0, 0], [0, 1]]).sid_of(7)

    def test_duplicate_item_ids(self) -> None:
        with pytest.raises(ValueError, match="unique item ids, but 'x' occurs more than once"):
            SIDIndex(["w", "x", "y", "x"], [[0, 0], [0, 1], [1, 0], [1, 1]])

    @pytest.mark.parametrize("stray", [7, None, 1.5, b"7"])
    def test_item_ids_that_are_not_strings(self, stray) -> None:
        with pytest.raises(TypeError, match=f"item ids of type `str`, but found .* of type `{type(stray).__name__}`"):
            SIDIndex(["1", stray], [[0, 0], [0, 1]])

    def test_titles(self) -> None:
        with pytest.raises(ValueError, match="Expected 2 titles, one per item, but found 1"):
            SIDIndex(["1", "2"], [[0, 0], [0, 1]], titles=["one"])
        with pytest.raises(TypeError, match="titles of type `str`, but found None"):
            SIDIndex(["1", "2"], [[0, 0], [0, 1]], titles=["one", None])

    @pytest.mark.parametrize(
        ("codes", "error", "words"),
        [
            ([[0, 0], [0, 1, 0]], ValueError, "rows of 2 and of 3 codes"),
            ([np.zeros(2, dtype=int), np.zeros(3, dtype=int)], ValueError, "rows of 2 and of 3 codes"),
            ([[0, -1], [0, 1]], ValueError, "from 0 .* found -1 to 1"),
            ([[0, 2**31], [0, 1]], ValueError, "found 0 to 2147483648"),
            ([[0.0, 1.0], [1.0, 2.0]], TypeError, "integer codes, but found dtype `float64`"),
            ([[0, 1.5], [0, 1]], TypeError, "integer codes"),
            ([[True, False], [True, True]], TypeError, "integer codes, but found dtype `bool`"),
            ([["0", "1"], ["1", "2"]], TypeError, "integer codes"),
            ([[0], [1]], ValueError, "2 to 8 levels.*shape .2, 1"),
            ([[0] * 9, [1] * 9], ValueError, "2 to 8 levels.*shape .2, 9"),
            ([0, 1], ValueError, r"shape \(items, levels\).*shape \(2,\)"),
            ([], ValueError, "at least one item"),
            (np.zeros((0, 3), dtype=np.int32), ValueError, "at least one item"),
            (np.zeros((2, 2, 2), dtype=np.int32), ValueError, "shape .2, 2, 2"),
            ([[0, 0], [0, 1], [1, 1]], ValueError, "2 item ids and 3 rows"),
        ],
    )
    def test_codes(self, codes, error, words) -> None:
        with pytest.raises(error, match=words):
            SIDIndex(["1", "2"], codes)

    @pytest.mark.parametrize(
        ("tokens", "error", "words"),
        [
            ([["<a_0>"], ["<b_0>"]], ValueError, "Code 1 of level 1 has no token: the level has 1 tokens"),
            ([["<a_0>"]], ValueError, "tokens for 2 levels .* found 1"),
            ([["<a_0>"], ["<b_0>", "b_1"]], ValueError, "'b_1'"),
            ([["<a_0>"], ["<b_0>", "<b 1>"]], ValueError, "'<b 1>'"),
            ([["<a_0>"], ["<b_0>", "<b_1>x"]], ValueError, "'<b_1>x'"),
            ([["<a_0>"], ["<b_0>", "<b<1>"]], ValueError, "'<b<1>'"),
            ([["<a_0>"], ["<b_0>", "<b_1>\n"]], ValueError, r"<b_1>\\n"),
            ([["<a_0>"], ["<b_0>", "<>"]], ValueError, "'<>'"),
            ([["<a_0>"], ["<b_0>", ""]], ValueError, "found ''"),
            ([["<a_0>"], ["<b_0>", 1]], TypeError, "SID tokens of type `str`, but found 1"),
            ([["<a_0>"], ["<a_0>", "<b_1>"]], ValueError, "occurs twice"),
            ([["<a_0>"], ["<b_0>", "<b_0>"]], ValueError, "occurs twice"),
        ],
    )
    def test_tokens(self, tokens, error, words) -> None:
        with pytest.raises(error, match=words):
            SIDIndex(["1", "2"], [[0, 0], [0, 1]], tokens)

    @pytest.mark.parametrize(
        ("sid", "words"),
        [
            ("<a_0><b_1>", "SID of 3 tokens such as '<a_0><b_0><c_0>', but found '<a_0><b_1>'"),
            ("<a_0> <b_1><c_0>", "SID of 3 tokens"),
            ("", "SID of 3 tokens"),
            ("hammer", "SID of 3 tokens"),
            ("<a_0><b_7><c_0>", "'<b_7>' .* not a token of level 1"),
            ("<b_0><a_0><c_0>", "'<b_0>' .* not a token of level 0"),
            ([0, 1], "Expected 3 codes"),
            ([0, 1, 0, 0], "Expected 3 codes"),
            ([0, 1, 2], r"levels' sizes \(2, 3, 2\), but found \(0, 1, 2\)"),
            ([0, -1, 0], r"found \(0, -1, 0\)"),
        ],
    )
    def test_sids(self, sid_index: SIDIndex, sid, words) -> None:
        with pytest.raises(ValueError, match=words):
            sid_index.items_of(sid)

    @pytest.mark.parametrize("codes", [[0, -1, 0], [0, 1], [0, 1, 0, 0], [2, 0, 0]])
    def test_codes_that_cannot_be_spelled(self, sid_index: SIDIndex, codes) -> None:
        with pytest.raises(ValueError, match=r"levels' sizes \(2, 3, 2\)"):
            sid_index.spell(codes)


class TestJSON:
    def test_codes_are_positions_among_the_tokens_that_occur(self, tmp_path: Path) -> None:
        sids = {"7": ["<a_236>", "<b_9>"], "x": ["<a_9>", "<b_10>"], "ü": ["<a_24>", "<b_9>"]}
        index = SIDIndex.from_json(write(tmp_path / "index.json", sids))
        assert index.item_ids == ["7", "x", "ü"]
        assert index.tokens == [["<a_9>", "<a_24>", "<a_236>"], ["<b_9>", "<b_10>"]]  # By number, not by letter.
        assert index.codes.tolist() == [[2, 0], [0, 1], [1, 0]]
        assert index.sid_of("7") == "<a_236><b_9>"
        index.to_json(tmp_path / "again.json")
        assert json.loads((tmp_path / "again.json").read_text(encoding="utf-8")) == sids
        assert SIDIndex.from_json(str(tmp_path / "again.json")) == index

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ('{"1": ["<a_0>", "<b_0>"], "2": ["<a_0>", "<b', "not valid JSON.*truncated"),
            ("", "not valid JSON"),
            (
                '{"1": ["<a_0>", "<b_0>"], "1": ["<a_0>", "<b_1>"]}',
                "every name once in an object of .*, but '1' occurs twice",
            ),
            ({"1": ["<a_0>", "<b_0>"], "2": ["<a_0>"]}, "item '1' has 2 tokens and item '2' has 1"),
            ({"1": ["<a_0>", "<b_0>"], "2": []}, "item '2' has 0"),
            ({}, "at least one item"),
            ([], "at least one item"),
            (["<a_0>"], "to hold an object"),
            ([["<a_0>", "<b_0>"]], "to hold an object"),
            ("5", "to hold an object"),
            ("null", "to hold an object"),
            ({"1": "<a_0><b_0>"}, "to hold an object"),
            ({"1": {"a": 0}}, "to hold an object"),
            ({"1": [0, 1]}, "to hold an object"),
            ({"1": ["<a_0>", "b_0"]}, "'b_0'"),
            ({"1": ["<a_0>"]}, "2 to 8 levels"),
            ({"1": ["<a_0>", "<a_0>"]}, "occurs twice"),
        ],
    )
    def test_errors(self, tmp_path: Path, content, words) -> None:
        with pytest.raises(ValueError, match=words):
            SIDIndex.from_json(write(tmp_path / "index.json", content))

    def test_a_file_cut_within_a_letter(self, tmp_path: Path) -> None:
        (tmp_path / "index.json").write_bytes('{"ü'.encode()[:-1])
        with pytest.raises(ValueError, match="index.json is not valid JSON.*truncated"):
            SIDIndex.from_json(tmp_path / "index.json")

    @needs_data
    def test_the_industrial_catalogue(self, tmp_path: Path) -> None:
        index = SIDIndex.from_json(Path(INDUSTRIAL) / "index.json")
        assert len(index) == 3686 and index.level_sizes == (48, 256, 256) and sum(index.level_sizes) == 560
        assert index.trie.num_leaves == 3670
        collisions = index.collisions()
        assert len(collisions) == 15 and sum(map(len, collisions.values())) == 31
        raw = json.loads((Path(INDUSTRIAL) / "index.json").read_text())
        assert {item_id: index.sid_of(item_id) for item_id in index.item_ids} == {
            item_id: "".join(sid) for item_id, sid in raw.items()
        }
        assert all(item_id in index.items_of(index.sid_of(item_id)) for item_id in index.item_ids)
        index.to_json(tmp_path / "index.json")
        assert SIDIndex.from_json(tmp_path / "index.json") == index
        assert SIDIndex.load(index.save(tmp_path)) == index


class TestSaveAndLoad:
    @pytest.mark.parametrize("sizes", LEVEL_SIZES[:7], ids=str)
    def test_every_bit_comes_back(self, tmp_path: Path, sizes) -> None:
        codes = random_codes(0, sizes)
        ids = ["", "ü", "товар", "\n\t", "a\x00b", "商品 7", "🛠", *(f"item {row}" for row in range(7, len(codes)))]
        titles = ["🍐 & 梨" * row for row in range(len(codes))]
        tokens = [[f"<lvl{level}:{code}é>" for code in range(size)] for level, size in enumerate(sizes)]
        index = SIDIndex(ids, codes, tokens, titles)
        path = index.save(tmp_path / "deep" / "folder")
        assert path == tmp_path / "deep" / "folder" / "sid_index.safetensors"
        for source in (path, str(path), path.parent, str(path.parent)):
            loaded = SIDIndex.load(source)
            assert loaded == index and loaded.fingerprint == index.fingerprint
            assert loaded.codes.dtype == np.int32 and loaded.titles == titles
        assert SIDIndex.load(loaded.save(tmp_path)) == index

    def test_titles_may_be_left_out_or_empty(self, tmp_path: Path) -> None:
        index = SIDIndex(["1", "2"], [[0, 0], [0, 1]])
        assert SIDIndex.load(index.save(tmp_path)).titles is None
        index = SIDIndex(["1", "2"], [[0, 0], [0, 1]], titles=["", ""])
        assert SIDIndex.load(index.save(tmp_path)).titles == ["", ""]

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.99, -1])
    def test_truncated_file(self, tmp_path: Path, share: float) -> None:
        path = SIDIndex([str(row) for row in range(60)], random_codes(0, (5, 7))).save(tmp_path)
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] if share < 0 else whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match="not a whole safetensors file.*truncated"):
            SIDIndex.load(tmp_path)

    @pytest.mark.parametrize("old, new", [(b"nail", b"n@il"), (b"<a_", b"<x_")])
    def test_changed_contents(self, tmp_path: Path, old: bytes, new: bytes) -> None:
        index = SIDIndex(["1", "2"], [[0, 3], [1, 0]], titles=["a nail", "a saw"])
        path = index.save(tmp_path)
        assert SIDIndex.load(tmp_path) == index
        changed = path.read_bytes().replace(old, new)
        assert changed != path.read_bytes()
        path.write_bytes(changed)
        if old == b"nail":
            with pytest.raises(ValueError, match="as it was saved, but its codes, ids or titles have changed"):
                SIDIndex.load(tmp_path)
        else:  # what its fingerprint covers, which a checkpoint knows
            assert SIDIndex.load(tmp_path).fingerprint != index.fingerprint

    def test_another_file(self, tmp_path: Path) -> None:
        save_file({"codes": np.zeros((1, 2), dtype=np.int32)}, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match="version 1, but found version None"):
            SIDIndex.load(tmp_path / "model.safetensors")
        with pytest.raises(FileNotFoundError, match="SID index at .*no such file"):
            SIDIndex.load(tmp_path)


def prefix_dictionary(codes: np.ndarray) -> dict[tuple[int, ...], list[int]]:
    """Sorted next codes of every prefix."""
    children: dict[tuple[int, ...], set[int]] = {}
    for row in codes.tolist():
        for level, code in enumerate(row):
            children.setdefault(tuple(row[:level]), set()).add(code)
    return {prefix: sorted(found) for prefix, found in children.items()}


class TestSIDTrie:
    @pytest.mark.parametrize("sizes", LEVEL_SIZES, ids=str)
    def test_against_a_dictionary_of_prefixes(self, sizes: tuple[int, ...]) -> None:
        for seed in range(6):
            codes = random_codes(seed, sizes)
            trie = SIDTrie(codes)
            dictionary = prefix_dictionary(codes)
            prefixes, nodes = [()], torch.zeros(1, dtype=torch.long)
            for depth in range(len(sizes)):
                assert trie.num_prefixes(depth) == len(prefixes)
                children, next_codes, legal = trie.children(nodes, depth)
                assert children.shape == next_codes.shape == legal.shape == (len(prefixes), trie.max_children[depth])
                assert trie.max_children[depth] == max(len(dictionary[prefix]) for prefix in prefixes)
                found = [row[mask].tolist() for row, mask in zip(next_codes, legal)]
                assert found == [dictionary[prefix] for prefix in prefixes]
                # Padding entries hold node 0 and code 0.
                assert not children[~legal].any() and not next_codes[~legal].any()
                assert children[legal].min() > 0
                prefixes = [(*prefix, code) for prefix in prefixes for code in dictionary[prefix]]
                nodes = children[legal]
            assert trie.leaves_of(nodes).tolist() == list(range(trie.num_leaves))
            assert trie.num_leaves == len(prefixes) == len({tuple(row) for row in codes.tolist()})
            rows_of: dict[tuple[int, ...], list[int]] = {}
            for row, sid in enumerate(codes.tolist()):
                rows_of.setdefault(tuple(sid), []).append(row)
            for leaf, sid in enumerate(prefixes):  # Lexicographic order.
                assert trie.find(sid) == leaf
                assert trie.items_of_leaf(leaf) == rows_of[sid]

    def test_find_of_sids_that_no_item_carries(self) -> None:
        codes = random_codes(0, (5, 7, 6))
        trie = SIDTrie(codes)
        sids = {tuple(row) for row in codes.tolist()}
        grid = [(a, b, c) for a in range(-1, 6) for b in range(-1, 8) for c in range(-1, 7)]
        assert {sid for sid in grid if trie.find(sid) is not None} == sids

    @pytest.mark.parametrize("codes", [(0,), (0, 1, 0, 0), ()])
    def test_find_wants_a_whole_sid(self, sid_index: SIDIndex, codes) -> None:
        with pytest.raises(ValueError, match="Expected 3 codes"):
            sid_index.trie.find(codes)

    def test_children_of_any_shape(self, sid_index: SIDIndex) -> None:
        trie = sid_index.trie
        # Nodes: 0 the root; 1, 2 for codes 0, 1; 3, 4 below the first; 5, 6, 7 below the second.
        nodes, codes, legal = trie.children(torch.tensor([[1, 2], [2, 2]]), depth=1)
        assert nodes.tolist() == [[[3, 4, 0], [5, 6, 7]], [[5, 6, 7], [5, 6, 7]]]
        assert codes.tolist() == [[[0, 1, 0], [0, 1, 2]], [[0, 1, 2], [0, 1, 2]]]
        assert legal.tolist() == [[[True, True, False], [True] * 3], [[True] * 3, [True] * 3]]
        with pytest.raises(ValueError, match="depth from 0 to 2, but found 3"):
            trie.children(torch.tensor([8]), depth=3)

    def test_sizes_of_the_tiny_catalogue(self, sid_index: SIDIndex) -> None:
        trie = sid_index.trie
        # 8 items, 7 SIDs; prefixes: 1, 2, 5, 7.
        assert [trie.num_prefixes(depth) for depth in range(4)] == [1, 2, 5, 7]
        assert trie.num_nodes == 15 and trie.num_leaves == 7 and trie.max_children == (2, 3, 2)

    def test_the_order_of_items_does_not_matter(self) -> None:
        codes = random_codes(3, (5, 7, 6))
        trie, reverse = SIDTrie(codes), SIDTrie(torch.from_numpy(codes[::-1].copy()))
        assert torch.equal(trie.first_child, reverse.first_child) and torch.equal(trie.node_codes, reverse.node_codes)
        last = len(codes) - 1
        assert [trie.items_of_leaf(leaf) for leaf in range(trie.num_leaves)] == [
            sorted(last - row for row in reverse.items_of_leaf(leaf)) for leaf in range(trie.num_leaves)
        ]

    def test_moves_between_devices(self, sid_index: SIDIndex) -> None:
        trie = sid_index.trie
        assert trie.to("cpu") is trie
        moved = trie.to("meta")
        assert moved.device.type == "meta" and trie.device.type == "cpu"
        tensors = [name for name, value in vars(trie).items() if isinstance(value, torch.Tensor)]
        assert tensors and all(getattr(moved, name).device.type == "meta" for name in tensors)
        assert moved.num_leaves == 7 and moved.num_prefixes(2) == 5
        # A look-up that read a value back from the device would fail here.
        nodes, codes, legal = moved.children(torch.zeros(2, 1, dtype=torch.long, device="meta"), depth=1)
        assert nodes.shape == codes.shape == legal.shape == (2, 1, 3)


class TestGrowth:
    """Items that come and go without training."""

    def test_it_equals_an_index_made_whole(self, sid_index) -> None:
        before = pickle.dumps(sid_index)
        codes, ids, titles = sid_index.codes, sid_index.item_ids, sid_index.titles
        trie, fingerprint = sid_index.trie, sid_index.fingerprint
        grown = sid_index.with_items(["kiwi", "axe"], codes=[[1, 0, 0], [0, 2, 1]], titles=["green kiwi", "axe"])
        whole = SIDIndex([*ids, "kiwi", "axe"], [*codes, [1, 0, 0], [0, 2, 1]], titles=[*titles, "green kiwi", "axe"])
        assert grown == whole and grown.fingerprint == whole.fingerprint
        assert grown.items_of("<a_1><b_0><c_0>") == ["apple", "kiwi"]  # a SID that was taken is shared
        assert grown.items_of("<a_0><b_2><c_1>") == ["axe"] and grown.trie.num_leaves == 8
        smaller = grown.without_items(["nail", "screw", "kiwi"])
        left = [row for row, item in enumerate(whole.item_ids) if item not in ("nail", "screw", "kiwi")]
        assert smaller == SIDIndex(
            [whole.item_ids[row] for row in left],
            whole.codes[left],
            sid_index.tokens,
            [whole.titles[row] for row in left],
        )
        assert smaller.items_of("<a_0><b_1><c_0>") == [] and "nail" not in smaller
        # Nothing of the indexes that they come from has changed.
        assert grown == whole and "nail" in grown
        assert pickle.dumps(sid_index) == before
        assert sid_index.trie is trie and sid_index.fingerprint == fingerprint and len(sid_index) == 8

    def test_all_ancestors_are_remembered(self, sid_index, tmp_path) -> None:
        first = sid_index.fingerprint
        assert sid_index.fits(first) and sid_index.fits(None) and not sid_index.fits("another")
        second = sid_index.with_items(["axe"], sids=["<a_0><b_2><c_1>"])
        third = second.without_items(["nail"]).with_items(["drill"], codes=[[0, 2, 0]])
        assert third.titles[-1] == ""
        # A checkpoint of any of them takes the last: add, train, add again.
        assert third.ancestors[:2] == (first, second.fingerprint) and len(third.ancestors) == 3
        third.save(tmp_path)
        for copied in (SIDIndex.load(tmp_path), pickle.loads(pickle.dumps(third)), third.with_counts([1] * 9)):
            assert copied == third and copied.ancestors == third.ancestors
            assert copied.fits(first) and copied.fits(second.fingerprint) and not copied.fits("another")
        # Older indexes do not fit younger checkpoints.
        assert not sid_index.fits(second.fingerprint) and not second.fits(third.fingerprint)

    def test_removed_items_leave_their_sids_behind(self, sid_index, tmp_path) -> None:
        assert sid_index.delisted is None and sid_index.without_items([]).delisted is None
        first = sid_index.without_items(["saw"])
        index = first.with_items(["axe"], codes=[[0, 2, 0]]).without_items(["nail", "apple"])
        assert first.delisted.item_ids == ["saw"] and index.delisted.item_ids == ["saw", "nail", "apple"]
        for copied in (index, pickle.loads(pickle.dumps(index)), index.with_counts([1] * 6)):
            copied.save(tmp_path)
            copied = SIDIndex.load(tmp_path).delisted
            assert {item: copied.sid_of(item) for item in copied.item_ids} == {
                item: sid_index.sid_of(item) for item in ("saw", "nail", "apple")
            }
            assert copied.tokens == sid_index.tokens
        back = index.with_items(["apple", "saw"], codes=[[0, 2, 1], [0, 0, 0]])
        assert back.titles[-2:] == [dict(zip(sid_index.item_ids, sid_index.titles))[item] for item in ("apple", "saw")]
        assert back.delisted.item_ids == ["nail"] and back.with_items(["nail"], codes=[[0, 0, 0]]).delisted is None

    def test_delisted_items_that_do_not_fit_are_an_error(self, sid_index) -> None:
        gone = sid_index.without_items(["saw"]).delisted
        parts = (sid_index.item_ids, sid_index.codes, sid_index.tokens)
        with pytest.raises(ValueError, match="delisted items that are gone, but 'saw' is an item"):
            SIDIndex(*parts, delisted=gone)
        with pytest.raises(ValueError, match="delisted items of the tokens of the index"):
            SIDIndex(*parts, delisted=SIDIndex(["old"], [[0, 0, 0]]))
        with pytest.raises(TypeError, match="`delisted` as a `SIDIndex`, but found `list`"):
            SIDIndex(*parts, delisted=["saw"])

    def test_pickles_from_before_are_read(self, sid_index) -> None:
        state = sid_index.__getstate__()
        del state["delisted"]
        old = SIDIndex.__new__(SIDIndex)
        old.__setstate__(state)
        assert old == sid_index and old.without_items(["saw"]).delisted.item_ids == ["saw"]

    def test_there_and_back_is_no_ancestor_of_itself(self, sid_index) -> None:
        back = sid_index.with_items(["axe"], codes=[[0, 2, 0]]).without_items(["axe"])
        assert back == sid_index and back.fingerprint == sid_index.fingerprint not in back.ancestors

    def test_nothing_can_be_set(self, sid_index) -> None:
        sid_index.trie
        for name in ("item_ids", "codes", "titles", "counts", "trie", "anything"):
            with pytest.raises(AttributeError, match=f"`{name}` is to be set.*`with_items`"):
                setattr(sid_index, name, None)
        with pytest.raises(ValueError, match="read-only"):
            sid_index.codes[0, 0] = 1

    def test_codes_of_a_file_are_not_the_quantisers(self, tmp_path) -> None:
        (tmp_path / "index.json").write_text('{"a": ["<a_5>", "<b_0>"], "b": ["<a_7>", "<b_1>"]}')
        index = SIDIndex.from_json(tmp_path / "index.json")
        with pytest.raises(ValueError, match="code 0 of level 0 is spelled '<a_5>'.*Pass `sids`"):
            index.with_items(["c"], codes=[[0, 1]])
        assert index.with_items(["c"], sids=["<a_7><b_0>"]).codes[-1].tolist() == [1, 0]

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"item_ids": ["axe"]}, "either `codes` or `sids`"),
            ({"item_ids": ["axe"], "codes": [[0, 0, 0]], "sids": ["<a_0><b_0><c_0>"]}, "either `codes` or `sids`"),
            ({"item_ids": ["hammer"], "codes": [[0, 0, 0]]}, "'hammer' occurs more than once"),
            ({"item_ids": ["axe", "axe"], "codes": [[0, 0, 0]] * 2}, "'axe' occurs more than once"),
            ({"item_ids": ["axe"], "codes": [[0, 3, 0]]}, r"below their sizes \(2, 3, 2\).*up to \(0, 3, 0\)"),
            ({"item_ids": ["axe"], "codes": [[0, 0]]}, "codes of 3 levels"),
            ({"item_ids": ["axe"], "codes": [[-1, 0, 0]]}, "negative|from 0"),
            ({"item_ids": ["axe", "saw 2"], "codes": [[0, 0, 0]]}, "each of 2 new items, but found 1"),
            ({"item_ids": ["axe"], "sids": ["<a_0><b_9><c_0>"]}, "'<b_9>'.*is not a token of level 1"),
            ({"item_ids": ["axe"], "codes": [[0, 0, 0]], "titles": []}, "a title for each of 1"),
        ],
    )
    def test_what_cannot_be_added(self, sid_index, arguments, match) -> None:
        with pytest.raises(ValueError, match=match):
            sid_index.with_items(**arguments)

    def test_what_cannot_be_removed(self, sid_index) -> None:
        with pytest.raises(KeyError, match="'spoon'"):
            sid_index.without_items(["nail", "spoon"])
        with pytest.raises(ValueError, match="all 8 would be removed"):
            sid_index.without_items(list(sid_index.item_ids))
        with pytest.raises(TypeError, match="'nail'"):
            sid_index.without_items("nail")


class TestCounts:
    """Items that share a SID are ranked by their training counts."""

    COUNTS = [0, 1, 5, 2, 0, 0, 3, 4]  # of nail 1, of screw 5, which share a SID

    def test_the_more_frequent_item_comes_first(self, sid_index, tmp_path) -> None:
        assert sid_index.counts is None and sid_index.items_of("<a_0><b_1><c_0>") == ["nail", "screw"]
        counted = sid_index.with_counts(self.COUNTS)
        assert counted.items_of("<a_0><b_1><c_0>") == ["screw", "nail"]
        assert counted.collisions() == {"<a_0><b_1><c_0>": ["screw", "nail"]}
        assert counted == sid_index and counted.fingerprint == sid_index.fingerprint and counted.ancestors == ()
        counted.save(tmp_path)
        loaded = SIDIndex.load(tmp_path)
        assert loaded.counts.tolist() == self.COUNTS and loaded.counts.dtype == np.int64
        assert SIDIndex.load(tmp_path).items_of("<a_0><b_1><c_0>") == ["screw", "nail"]
        # Equal counts stand in index order.
        assert sid_index.with_counts([7] * 8).items_of("<a_0><b_1><c_0>") == ["nail", "screw"]

    def test_they_go_along(self, sid_index) -> None:
        grown = sid_index.with_counts(self.COUNTS).with_items(["bolt"], codes=[[0, 1, 0]])
        assert grown.counts.tolist() == [*self.COUNTS, 0]
        assert grown.items_of("<a_0><b_1><c_0>") == ["screw", "nail", "bolt"]
        assert grown.without_items(["hammer", "apple"]).counts.tolist() == [1, 5, 2, 0, 3, 4, 0]

    @pytest.mark.parametrize(
        ("counts", "error", "match"),
        [
            ([1] * 7, ValueError, r"each of 8 items, but found shape \(7,\)"),
            ([1] * 7 + [-1], ValueError, "at least 0.*a least count of -1"),
            ([0.5] * 8, TypeError, "integers, but found dtype `float64`"),
        ],
    )
    def test_errors(self, sid_index, counts, error, match) -> None:
        with pytest.raises(error, match=match):
            sid_index.with_counts(counts)


class TestTrieOnDevices:
    def test_a_copy_is_kept(self, sid_index) -> None:
        assert sid_index.trie_on("cpu") is sid_index.trie
        assert sid_index.trie_on("meta") is sid_index.trie_on(torch.device("meta"))

    def test_everything_derived_moves_along(self, sid_index) -> None:
        trie = sid_index.trie
        trie.paths_of(torch.tensor([0, 3]))
        trie.num_items_below  # cached on the CPU
        moved = trie.to("meta")
        items = torch.zeros(2, dtype=torch.long, device="meta")
        assert moved.paths_of(items).device.type == "meta"
        assert moved.num_items_below.device.type == "meta"
        assert moved.count_items(torch.ones(8, dtype=torch.bool, device="meta")).device.type == "meta"
        assert all(part.device.type == "meta" for part in moved.item_ranges)
