import pyarrow as pa
import pytest

from tsrec_hf.items import clean_text


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Plain", "Plain"),
        (None, ""),
        ("  a \t b\r\n c ", "a b c"),
        ("<p>One<br/>two</p><img src='x' alt=\"y\">three", "One two three"),
        ("<SPAN CLASS='a'\nid=b>Caps</SPAN >", "Caps"),
        ("a<script type='x'>if (1 < 2) { alert() }</script>b<style>p {}</style>c<!-- d > e -->f", "a b c f"),
        # No HTML: code, comparisons, hearts, SID tokens.
        ("vector<int> <a_12> 5 < 6 > 4 <3 i<b and c", "vector<int> <a_12> 5 < 6 > 4 <3 i<b and c"),
        ("Nuts &amp; bolts &quot;M3&quot; &#39;x&#x27; &nbsp;y", "Nuts & bolts \"M3\" 'x' y"),
        ("Twice: &amp;amp; &amp;lt;b&amp;gt;bold&amp;lt;/b&amp;gt;", "Twice: & bold"),
        ("Ben & Jerry &notebook AT&T; &unknown; &#9999999;", "Ben & Jerry &notebook AT&T; &unknown;"),
        ("a\x00b\x07c\x7fd\x85e", "a b c d e"),
        ("zero\u200bwidth soft\u00adhyphen \ufeffmark \u202eleft \ufffd", "zerowidth softhyphen mark left"),
        ("a\u00a0b\u2003c\u2028d\u3000e", "a b c d e"),
        ("Cafe\u0301", "Café"),
        ("👨\u200d👩\u200d👧 family 日本語", "👨\u200d👩\u200d👧 family 日本語"),
    ],
)
def test_texts_become_plain(text, plain):
    assert clean_text(pa.array([text], pa.string())).to_pylist() == [plain]


def test_chunks_keep_their_order():
    texts = pa.chunked_array([["&lt;", "b"], [], [None, "<br>d"]], pa.string())
    assert clean_text(texts).to_pylist() == ["<", "b", "", "d"]
    assert clean_text(pa.array([], pa.string())).to_pylist() == []


def test_clean_texts_stay_as_they_are():
    texts = pa.array(["Nuts & bolts", "5 < 6"])
    assert clean_text(clean_text(texts)).to_pylist() == texts.to_pylist()


def test_unclosed_markup_is_read_in_linear_time():
    # Backtracking would never come to an end.
    text = "<script>" * 20_000 + "<!--" * 20_000 + "<a " * 20_000 + "&" * 50_000
    assert len(clean_text(pa.array([text]))) == 1
