import numpy as np
import pytest

from tsrec_hf.models import SIDIndex
from tsrec_hf.sids.catalogue import load_embeddings, save_embeddings


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
