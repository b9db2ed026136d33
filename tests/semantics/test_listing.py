"""Recommendations as text."""

from tsrec_hf import Recommendation, TokenSemantics, list_recommendations


def test_a_line_for_each_item(sid_index, semantics) -> None:
    sids = {item: sid_index.sid_of(item) for item in ("hammer", "pear")}
    found = [
        Recommendation("hammer", sids["hammer"], -1.0, title="a steel hammer with a handle made of hickory wood"),
        Recommendation("pear", sids["pear"], -2.0),
    ]
    first, second = list_recommendations(found, sid_index, semantics, num_keywords=1).splitlines()
    assert first == "  1. a steel hammer with a handle made of ... <a_0><b_0><c_0>  tools | handle | hammer"
    assert second.split() == ["2.", "pear", sids["pear"], "food", "|", "handle", "|", "sharp"]
    described = TokenSemantics([semantics["<a_1>"]])
    line = list_recommendations(found[1:], sid_index, described)
    assert line.endswith(f"{sids['pear']}  food, fresh") and list_recommendations([], sid_index, described) == ""
