import numpy as np
import pytest

from tsrec_hf.sids import item_transitions
from tsrec_hf.sids.transitions import next_prefix_hits


def test_transitions_by_hand() -> None:
    rows = [{"history": ["x", "y"], "target": "z"}, {"history": ["z"], "target": "z"}, {"history": [], "target": "x"}]
    assert item_transitions(rows, ["z", "y", "x"]).tolist() == [[1, 0], [0, 0]]
    assert item_transitions([], ["z"]).shape == (0, 2)
    with pytest.raises(ValueError, match="interactions of the 2 items in `item_ids`, found item 'y'"):
        item_transitions(rows, ["z", "x"])


def test_nothing_to_predict_is_not_a_number() -> None:
    assert np.isnan(next_prefix_hits(np.array([0, 1]), np.array([[0, 1]]), np.empty((0, 2), dtype=int)))
