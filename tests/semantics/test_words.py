import sys

import pytest

from tsrec_hf.semantics import KeywordTeacher
from tsrec_hf.semantics import words as words_module
from tsrec_hf.semantics.words import check_segmenter, cut_at_word, find_terms, find_words, spell


# Titles and their words, cut by hand.
SPACED = {
    "Hindi": ("स्टेनलेस स्टील पानी की बोतल, 1 लीटर", ["स्टेनलेस", "स्टील", "पानी", "की", "बोतल", "1", "लीटर"]),
    "Hindi conjuncts": ("हिन्दी किताबें (क्षत्रिय)", ["हिन्दी", "किताबें", "क्षत्रिय"]),
    "Tamil": ("எஃகு தண்ணீர் பாட்டில்", ["எஃகு", "தண்ணீர்", "பாட்டில்"]),
    "Korean": ("스테인리스 보온병, 대용량", ["스테인리스", "보온병", "대용량"]),
    "Arabic": ("زجاجة ماء، من الفولاذ المقاوم للصدأ", ["زجاجة", "ماء", "من", "الفولاذ", "المقاوم", "للصدأ"]),
    "Arabic vowels": ("قَهْوَة عَرَبِيَّة", ["قَهْوَة", "عَرَبِيَّة"]),
    "Persian joiner": ("کتاب\u200cها", ["کتاب\u200cها"]),
    "Russian": ("Бутылка для воды из стали", ["Бутылка", "для", "воды", "из", "стали"]),
    "German": ("Edelstahl-Trinkflasche für Tee", ["Edelstahl", "Trinkflasche", "für", "Tee"]),
    "decomposed": ("Cafe\u0301 creme", ["Cafe\u0301", "creme"]),
}
UNSPACED = {
    "Thai": ("น้ำผลไม้และกาแฟ", ["น้ำ", "ผล", "ไม้", "และ", "กาแฟ"]),
    "Thai and digits": ("เก้าอี้ทำงาน 2 ตัว", ["เก้าอี้", "ทำงาน", "2", "ตัว"]),
    "Chinese": ("不锈钢水杯 500毫升", ["不锈钢", "水杯", "500", "毫升"]),
    "traditional Chinese": ("不鏽鋼保溫杯", ["不鏽鋼", "保溫杯"]),
    "Japanese": ("ステンレス製水筒 マグカップ", ["ステンレス", "製", "水筒", "マグカップ"]),
    "Japanese kana": ("子供の椅子", ["子供", "の", "椅子"]),
    "beyond 16 bits": ("𠮷野家 牛肉", None),
    "mixed": ("USB电池 red", ["USB", "电池", "red"]),
}


def find(text: str) -> list[str]:
    return [word.text for word in find_words(text)]


@pytest.mark.parametrize("script", SPACED)
def test_words_that_stand_apart(script: str) -> None:
    text, words = SPACED[script]
    assert find(text) == words


@pytest.mark.parametrize("script", UNSPACED)
def test_words_of_dictionaries(script: str) -> None:
    pytest.importorskip("icu4py", reason="needs the extra `keywords`")
    text, words = UNSPACED[script]
    assert words is None or find(text) == words
    assert all(text[word.start : word.end] == word.text for word in find_words(text))


def test_terms_of_scripts_without_spaces() -> None:
    pytest.importorskip("icu4py", reason="needs the extra `keywords`")
    # A single kana is no word, a single Chinese character is; phrases are words that touch.
    assert find_terms("子供の椅子 茶") == ["子供", "椅子", "茶"]
    assert find_terms("不锈钢水杯 500毫升") == ["不锈钢", "水杯", "毫升", "不锈钢 水杯"]
    assert spell("不锈钢 水杯") == "不锈钢水杯" and spell("steel 水杯") == "steel 水杯"


def test_keywords_in_other_scripts() -> None:
    pytest.importorskip("icu4py", reason="needs the extra `keywords`")
    clusters = {
        "<a_0>": [{"title": "不锈钢水杯 500毫升"}, {"title": "不锈钢水杯 黑色"}],
        "<a_1>": [{"title": "स्टील पानी की बोतल"}, {"title": "स्टील का गिलास"}],
        "<a_2>": [{"title": "กาแฟ"}, {"title": "น้ำกาแฟ"}],
    }
    described = KeywordTeacher(num_keywords=2).describe(clusters)
    assert described["<a_0>"].keywords[0] == "不锈钢水杯"
    assert described["<a_1>"].keywords[0] == "स्टील"
    assert described["<a_2>"].keywords[0] == "กาแฟ"


def test_missing_dictionaries(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setattr(words_module, "_word_breaker", lambda: None)
    assert find("不锈钢水杯 red") == ["不锈钢水杯", "red"]
    check_segmenter(["steel", "сталь", "स्टील"])
    assert not caplog.records
    with pytest.raises(ImportError, match=r"1 of 2 texts are in a script .*'水杯'.*pip install .\.\[keywords\]"):
        check_segmenter(["steel", "水杯"])
    with pytest.raises(ImportError, match="icu4py"):
        KeywordTeacher().describe({"<a_0>": [{"title": "水杯"}]})
    # A few of many are no reason to stop.
    check_segmenter(["steel"] * 99 + ["水杯"])
    assert "1 of 100 texts are in a script without spaces" in caplog.text


@pytest.mark.parametrize(
    ("text", "max_chars", "expected"),
    [
        ("steel bottle", 12, "steel bottle"),
        ("steel bottle", 11, "steel"),
        ("steel, bottle", 7, "steel"),
        ("steel bottle", 5, "steel"),
        ("steel bottle", 3, "ste"),
        ("पानी", 3, "पा"),  # not between न and its vowel sign
        ("x" * 100 + " y", 60, "x" * 60),
        ("", 1, ""),
    ],
)
def test_texts_are_cut_at_a_word(text: str, max_chars: int, expected: str) -> None:
    assert cut_at_word(text, max_chars) == expected


def test_texts_without_spaces_are_cut_at_a_word() -> None:
    pytest.importorskip("icu4py", reason="needs the extra `keywords`")
    assert cut_at_word("不锈钢水杯", 4) == "不锈钢"


def test_without_icu_there_is_no_word_breaker(monkeypatch):
    monkeypatch.setitem(sys.modules, "icu4py", None)
    monkeypatch.setitem(sys.modules, "icu4py.breakers", None)
    assert words_module._word_breaker.__wrapped__() is None
