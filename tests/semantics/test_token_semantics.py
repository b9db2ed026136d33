import json
import os
import pickle
from pathlib import Path

import pytest

from tsrec_hf.models import SIDIndex
from tsrec_hf.semantics import TokenDescription, TokenSemantics


INDUSTRIAL = os.environ.get("TSREC_DATA")
needs_data = pytest.mark.skipif(
    not INDUSTRIAL, reason="TSREC_DATA does not name the folder of Industrial_and_Scientific"
)

ROWS = [
    {"token": "<a_12>", "description": "Tools für Holz 🪚.", "keywords": ["saw", "wood glue"]},
    {"token": "<b_0>", "description": "", "keywords": []},
]


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_is_a_mapping_in_the_order_given() -> None:
    entries = [TokenDescription("<b_0>", "two", ["x"]), TokenDescription("<a_0>", "one", ["y", "z"])]
    semantics = TokenSemantics(entries)
    assert list(semantics) == ["<b_0>", "<a_0>"] and len(semantics) == 2
    assert semantics["<a_0>"].keywords == ["y", "z"] and semantics["<a_0>"].description == "one"
    assert "<a_0>" in semantics and "<a_1>" not in semantics and None not in semantics
    assert dict(semantics) == {"<b_0>": entries[0], "<a_0>": entries[1]}
    assert semantics.get("<a_1>") is None
    assert repr(semantics) == "TokenSemantics(2 tokens)"
    assert semantics == TokenSemantics(entries[::-1]) and semantics != TokenSemantics(entries[:1])
    assert pickle.loads(pickle.dumps(semantics)) == semantics
    assert len(TokenSemantics([])) == 0


def test_unknown_token_is_named() -> None:
    with pytest.raises(KeyError, match="'<a_1>' has no description among the 1 known tokens"):
        TokenSemantics([TokenDescription("<a_0>", "", [])])["<a_1>"]


def test_a_token_described_twice() -> None:
    with pytest.raises(ValueError, match="'<a_0>' occurs twice"):
        TokenSemantics([TokenDescription("<a_0>", "one", []), TokenDescription("<a_0>", "two", [])])


def test_a_mapping_or_rows_in_place_of_entries() -> None:
    entry = TokenDescription("<a_0>", "", ["saw"])
    for entries in ({"<a_0>": entry}, [{"token": "<a_0>", "description": "", "keywords": []}], ["<a_0>"]):
        with pytest.raises(TypeError, match="`TokenDescription` entries, but found"):
            TokenSemantics(entries)


def test_keywords_in_one_string() -> None:
    # Its letters would pass for keywords.
    with pytest.raises(TypeError, match="keywords of '<a_0>' as a list of strings, but found 'saw, hammer'"):
        TokenDescription("<a_0>", "", "saw, hammer")
    with pytest.raises(TypeError, match="keywords of '<a_0>' as a list of strings"):
        TokenDescription("<a_0>", "", ["saw", None])


def test_json_round_trip(tmp_path: Path) -> None:
    semantics = TokenSemantics.from_json(write(tmp_path / "in.json", ROWS))
    assert list(semantics) == ["<a_12>", "<b_0>"]
    assert semantics["<a_12>"] == TokenDescription("<a_12>", "Tools für Holz 🪚.", ["saw", "wood glue"])
    semantics.to_json(tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == ROWS
    assert TokenSemantics.from_json(str(tmp_path / "out.json")) == semantics


PROVENANCE = {"teacher": "InferenceClientTeacher", "model": "m", "prompt_version": 1, "num_items": 7}


def test_provenance_travels_byte_for_byte(tmp_path: Path) -> None:
    entries = [
        TokenDescription("<a_0>", "Tools für Holz 🪚.", ["saw"], PROVENANCE),
        TokenDescription("<a_1>", "", [], {"teacher": "KeywordTeacher", "num_items": 1, "fallback_for": PROVENANCE}),
        TokenDescription("<b_0>", "", ["x"]),
    ]
    TokenSemantics(entries).to_json(tmp_path / "one.json")
    again = TokenSemantics.from_json(tmp_path / "one.json")
    assert list(again.values()) == entries and again["<b_0>"].provenance is None
    again.to_json(tmp_path / "two.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    # A reader that knows the three fields alone finds them.
    rows = json.loads((tmp_path / "one.json").read_text(encoding="utf-8"))
    assert [sorted(row) for row in rows][1:] == [
        ["description", "keywords", "provenance", "token"],
        ["description", "keywords", "token"],
    ]
    assert again.count_teachers() == {"InferenceClientTeacher (m)": 1, "KeywordTeacher": 1, "unknown": 1}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not valid JSON.*truncated"),
        (json.dumps(ROWS)[:-1], "not valid JSON.*truncated"),
        (json.dumps(ROWS)[:40], "not valid JSON.*truncated"),
        ({"<a_0>": ["saw"]}, "list of entries, but found `dict`"),
        ("3", "list of entries, but found `int`"),
        ([ROWS[0], "x"], "entry 1 of .*but found x"),
        ([{"token": "<a_0>", "description": "d"}], "entry 0 of .*'token': 'str', 'description': 'str'}"),
        ([{**ROWS[0], "keywords": "saw, wood"}], "'keywords': 'str'"),
        ([{**ROWS[0], "keywords": None}], "'keywords': 'NoneType'"),
        ([{**ROWS[0], "token": 12}], "'token': 'int'"),
        ([{**ROWS[0], "description": None}], "'description': 'NoneType'"),
        ([{**ROWS[0], "keywords": ["saw", 3]}], "keywords of '<a_12>' in .* to be strings, but found .'saw', 3."),
        ([ROWS[0], ROWS[0]], "'<a_12>' occurs twice"),
        ([{**ROWS[0], "provenance": "a model"}], "`provenance` of '<a_12>' in .* dictionary, but found 'a model'"),
    ],
)
def test_broken_files(tmp_path: Path, content, words) -> None:
    with pytest.raises(ValueError, match=words):
        TokenSemantics.from_json(write(tmp_path / "in.json", content))


def test_a_file_cut_within_a_letter(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_bytes('["ü'.encode()[:-1])
    with pytest.raises(ValueError, match="in.json is not valid JSON.*truncated"):
        TokenSemantics.from_json(tmp_path / "in.json")


def test_other_fields_are_passed_over(tmp_path: Path) -> None:
    semantics = TokenSemantics.from_json(write(tmp_path / "in.json", [{**ROWS[0], "item_count": 3}]))
    assert semantics["<a_12>"].keywords == ["saw", "wood glue"]


@needs_data
def test_the_industrial_teacher(tmp_path: Path) -> None:
    semantics = TokenSemantics.from_json(Path(INDUSTRIAL) / "description_keywords.json")
    index = SIDIndex.from_json(Path(INDUSTRIAL) / "index.json")
    assert len(semantics) == 560 and set(semantics) == {token for level in index.tokens for token in level}
    assert all(semantics[token].description for token in semantics)
    sizes = [len(semantics[token].keywords) for token in semantics]
    assert 15 < sum(sizes) / len(sizes) < 25 and min(sizes) > 0
    assert semantics.count_teachers() == {"unknown": 560}
    semantics.to_json(tmp_path / "out.json")
    assert (tmp_path / "out.json").read_bytes() == (Path(INDUSTRIAL) / "description_keywords.json").read_bytes()


def describe(index: SIDIndex, *keywords: str) -> TokenSemantics:
    tokens = [token for level_tokens in index.tokens for token in level_tokens]
    return TokenSemantics([TokenDescription(token, "", list(keywords)) for token in tokens], index.fingerprint)


def test_semantics_of_a_rebuilt_folder_are_refused(tmp_path: Path) -> None:
    tools = SIDIndex(["1", "2"], [[0, 0], [0, 1]])
    describe(tools, "steel", "brush").to_json(tmp_path / "keywords.json")
    semantics = TokenSemantics.from_json(tmp_path / "keywords.json")
    assert semantics.fingerprint == tools.fingerprint
    semantics.check_index(tools)
    semantics.check_index(tools.with_items(["3"], codes=[[0, 1]]).without_items(["1"]))
    # The folder was rebuilt: `<a_0>` now means shampoo.
    shampoo = SIDIndex(["7", "8"], [[0, 0], [0, 1]])
    with pytest.raises(ValueError, match=f"{shampoo.fingerprint}, but these belong to index {tools.fingerprint}"):
        semantics.check_index(shampoo)


def test_semantics_without_a_fingerprint_must_cover_the_tokens_that_items_carry() -> None:
    index = SIDIndex(["1", "2"], [[0, 0], [0, 2]])  # nobody carries `<b_1>`
    entries = [TokenDescription(token, "", []) for token in ("<a_0>", "<b_0>", "<b_2>")]
    TokenSemantics(entries).check_index(index)
    with pytest.raises(ValueError, match="1 have none, first '<b_2>'"):
        TokenSemantics(entries[:2]).check_index(index)


def test_the_fingerprint_is_a_field_of_each_entry(tmp_path: Path) -> None:
    describe(SIDIndex(["1", "2"], [[0, 0], [0, 1]]), "nut").to_json(tmp_path / "a.json")
    rows = json.loads((tmp_path / "a.json").read_text())
    # As MiniOneRec's readers want it: a list of entries with the three fields.
    assert isinstance(rows, list) and all(row.keys() >= {"token", "description", "keywords"} for row in rows)
    rows[0]["index_fingerprint"] = "other"
    with pytest.raises(ValueError, match="one `index_fingerprint` in .*b.json, but found .*'other'"):
        TokenSemantics.from_json(write(tmp_path / "b.json", rows))
    rows[0]["index_fingerprint"] = 7
    with pytest.raises(ValueError, match="`index_fingerprint` of '<a_0>' in .* to be a string, but found 7"):
        TokenSemantics.from_json(write(tmp_path / "b.json", rows))


@pytest.mark.parametrize("keywords", ["saw, hammer", [1, 2], ["saw", None]])
def test_keywords_are_a_list_of_strings(keywords):
    with pytest.raises(TypeError, match="keywords of '<a_0>' as a list of strings.*Split"):
        TokenDescription("<a_0>", "Tools.", keywords)


@pytest.mark.parametrize("keywords", [["saw"] * 1001, ["saw" * 1001]])
def test_keywords_have_bounds(keywords):
    with pytest.raises(ValueError, match="at most 1000 keywords of 1000 characters each for '<a_0>'.*Keep the most"):
        TokenDescription("<a_0>", "Tools.", keywords)
