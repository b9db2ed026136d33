import hashlib
import subprocess
import sys

import numpy as np
import pytest

from tsrec_hf.sids.embedding_cache import EmbeddingCache


KEYS = [hashlib.sha256(word).digest() for word in (b"hammer", b"nail", b"saw")]
VECTORS = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]], dtype=np.float32)


def test_what_is_added_is_found_by_another_run(tmp_path) -> None:
    path = tmp_path / "folder" / "model.vectors"
    cache = EmbeddingCache(path, dim=2)
    cache.add(KEYS[:1], VECTORS[:1])
    cache.add(KEYS[1:], VECTORS[1:])
    assert path.stat().st_size == 3 * (32 + 2 * 4)
    for one in (cache, EmbeddingCache(path, dim=2)):
        assert len(one) == 3 and one.get(b"\0" * 32) is None
        np.testing.assert_array_equal([one.get(key) for key in KEYS], VECTORS)


@pytest.mark.parametrize("lost", [1, 39])
def test_a_record_that_was_cut_off_is_made_again(tmp_path, lost: int) -> None:
    path = tmp_path / "model.vectors"
    EmbeddingCache(path, dim=2).add(KEYS[:2], VECTORS[:2])
    path.write_bytes(path.read_bytes()[:-lost])
    cache = EmbeddingCache(path, dim=2)
    assert KEYS[0] in cache and KEYS[1] not in cache
    cache.add(KEYS[1:], VECTORS[1:])
    np.testing.assert_array_equal([EmbeddingCache(path, dim=2).get(key) for key in KEYS], VECTORS)


def test_other_files_are_refused_and_left_alone(tmp_path) -> None:
    path = tmp_path / "model.vectors"
    EmbeddingCache(path, dim=2).add(KEYS, VECTORS)
    content = path.read_bytes()
    with pytest.raises(ValueError, match="Expected unit vectors of width 3 .* of 2 records are none"):
        EmbeddingCache(path, dim=3)
    assert path.read_bytes() == content
    path.write_bytes(content[:33] + b"\xff" * 4 + content[37:])
    with pytest.raises(ValueError, match="1 of 3 records are none, first record 0"):
        EmbeddingCache(path, dim=2)


WRITER = """
import sys
import numpy as np
from tsrec_hf.sids.embedding_cache import EmbeddingCache

name, path = sys.argv[1:]
for number in range(60):
    cache = EmbeddingCache(path, dim=64) if number % 3 == 0 else cache
    vector = np.zeros(64, dtype=np.float32)
    vector[number] = 1
    cache.add([f"{name}{number}".ljust(32).encode()], vector[None])
    print(number, flush=True)
"""


def test_processes_that_write_at_once_lose_nothing_they_have_acknowledged(tmp_path) -> None:
    path = tmp_path / "model.vectors"
    command = [sys.executable, "-c", WRITER]
    writers = {
        name: subprocess.Popen([*command, name, str(path)], stdout=subprocess.PIPE, text=True) for name in "abc"
    }
    writers["c"].stdout.readline()
    writers["c"].kill()
    acknowledged = {name: len(process.communicate()[0].split()) for name, process in writers.items()}
    assert acknowledged["a"] == acknowledged["b"] == 60
    cache = EmbeddingCache(path, dim=64)
    for name, number in acknowledged.items():
        for one in range(number):
            assert cache.get(f"{name}{one}".ljust(32).encode())[one] == 1


def test_part_of_a_record_is_removed_where_the_file_ends_now(tmp_path) -> None:
    path = tmp_path / "model.vectors"
    EmbeddingCache(path, dim=2).add(KEYS[:1], VECTORS[:1])
    with path.open("ab") as file:
        file.write(b"cut off")
    stale = EmbeddingCache(path, dim=2)
    EmbeddingCache(path, dim=2).add(KEYS[1:2], VECTORS[1:2])
    stale.add(KEYS[2:], VECTORS[2:])
    np.testing.assert_array_equal([EmbeddingCache(path, dim=2).get(key) for key in KEYS], VECTORS)
