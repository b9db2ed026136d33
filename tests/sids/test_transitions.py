import pytest

from tsrec_hf.sids import item_transitions


def test_transitions_by_hand() -> None:
    rows = [{"history": ["x", "y"], "target": "z"}, {"history": ["z"], "target": "z"}, {"history": [], "target": "x"}]
    assert item_transitions(rows, ["z", "y", "x"]).tolist() == [[1, 0], [0, 0]]
    assert item_transitions([], ["z"]).shape == (0, 2)
    with pytest.raises(ValueError, match="interactions of the 2 items in `item_ids`, found item 'y'"):
        item_transitions(rows, ["z", "x"])
