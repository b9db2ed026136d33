"""Every reader with every kind of spoiled file: our error, or the right result."""

import gzip
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tsrec_hf import (
    NextItemPrior,
    RecommendationDataset,
    ResidualKMeans,
    SIDIndex,
    TokenSemantics,
    load_amazon,
    load_lcrec,
    load_minionerec,
    load_recbole,
    load_sequences,
    load_table,
    open_dataset,
)
from tsrec_hf.models.prior_files_tsrec import load_prior, save_prior
from tsrec_hf.semantics import AnswerCache
from tsrec_hf.sids.catalogue import load_embeddings, save_embeddings
from tsrec_hf.sids.embedding_cache import EmbeddingCache


# How many the fixture `readers` makes; the fuzzing takes one at a time.
NUM_READERS = 32
SPOIL: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda good: b"",
    "white space": lambda good: b" \n\n\t",
    "half": lambda good: good[: len(good) // 2],
    "without its last byte": lambda good: good[:-1],
    "random bytes": lambda good: np.random.default_rng(0).bytes(500),
    "zeros": lambda good: b"\0" * 500,
    "byte order mark": lambda good: b"\xef\xbb\xbf" + good,
    "deep JSON": lambda good: b"[" * 20_000,
    "deep object": lambda good: b'{"a":' * 20_000,
    "null": lambda good: b"null",
    "a number": lambda good: b"1e999",
    "a list": lambda good: b"[1, 2]",
    "an object": lambda good: b'{"a": {"b": 1}}',
    "an error page": lambda good: b"<!DOCTYPE html><html><body>404, not found</body></html>",
    "latin-1": lambda good: b"\xe9\xff" + good,
    "truncated gzip": lambda good: gzip.compress(good * 50)[:-12],
    "doubled": lambda good: good + good,
    "a surrogate": lambda good: b'[{"token": "<a_0>\\ud800", "title": "\\ud83d"}]',
    "NaN": lambda good: b"NaN",
}
# What comes back equal is right; readers of text cannot know that rows are missing, or that they stand twice.
MAY_PASS = {"byte order mark", "without its last byte", "half", "doubled", "white space", "empty", "truncated gzip"}


@pytest.fixture(scope="module")
def readers(tmp_path_factory, request) -> dict[str, tuple[Path, Callable]]:
    """The file that is spoiled, and what reads it, by name."""
    made = next(p for p in request.config.pluginmanager.get_plugins() if hasattr(p, "make_sid_index"))
    folder = tmp_path_factory.mktemp("readers")
    dataset, semantics = made.make_dataset(), made.make_semantics()
    index = dataset.sid_index

    def at(name: str, write: Callable[[Path], object]) -> Path:
        (folder / name).mkdir()
        write(folder / name)
        return folder / name

    def put(name: str, **files: str) -> Path:
        return at(name, lambda here: [(here / key.replace("_", ".")).write_text(text) for key, text in files.items()])

    saved = at("dataset", dataset.save)
    theirs = {"item": {str(i): {"title": f"t{i}"} for i in range(4)}}
    lcrec = put(
        "lcrec",
        X_item_json=json.dumps(theirs["item"]),
        X_inter_json=json.dumps({"u": [0, 1, 2, 3], "v": [1, 2, 0]}),
        X_index_json=json.dumps({str(i): [f"<a_{i % 2}>", f"<b_{i}>"] for i in range(4)}),
    )
    mini = at("minionerec", lambda here: _save_minionerec(made, here))
    rows = "user_id,item_id,timestamp\nu,1,1\nu,2,2\nv,1,3\nv,2,4\n"
    items = "item_id,title\n1,glue\n2,tape\n"
    table = put("table", i_csv=items, r_csv=rows)
    lines = put(
        "lines",
        i_jsonl="".join(json.dumps({"item_id": str(i), "title": f"t{i}"}) + "\n" for i in range(3)),
        r_jsonl="".join(json.dumps({"user_id": "u", "item_id": str(i), "timestamp": i}) + "\n" for i in range(3)),
    )
    parquet = at("parquet", lambda here: dataset.items.to_parquet(here / "i.parquet"))
    review = {"user_id": "u", "parent_asin": "B1", "rating": 5.0, "timestamp": 1}
    amazon = put(
        "amazon",
        r_jsonl="".join(json.dumps({**review, "timestamp": i}) + "\n" for i in range(2)),
        m_jsonl=json.dumps({"parent_asin": "B1", "title": "nut", "description": []}) + "\n",
    )
    recbole = at(
        "toy",
        lambda here: [
            (here / "toy.item").write_text("item_id:token\ttitle:token_seq\n1\tnut\n2\tbolt\n"),
            (here / "toy.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\nu\t1\t1\nu\t2\t2\n"),
        ],
    )
    sequences = put("sequences", s_txt="1 1 2\n2 2 1\n", i_csv=items)
    vectors = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    quantizer = at("quantizer", ResidualKMeans([2, 2]).fit(vectors).save)
    embeddings = at("embeddings", lambda here: save_embeddings(here, vectors, index))
    prior = NextItemPrior.fit(dataset.train, index)
    priors = at("prior", lambda here: save_prior(here, prior, "mixture", 0.5))
    meaning = at("semantics", lambda here: semantics.to_json(here / "k.json"))
    codes = at("index", lambda here: (index.save(here), index.to_json(here / "index.json")))
    answers = at("answers", lambda here: AnswerCache(here / "a.jsonl").add({"q": 1}, "yes"))
    cached = at("cached", lambda here: EmbeddingCache(here / "v", 2).add([b"k" * 32], np.array([[1.0, 0.0]])))
    found: dict[str, tuple[Path, Callable]] = {
        "SIDIndex.from_json": (codes / "index.json", lambda: SIDIndex.from_json(codes / "index.json")),
        "SIDIndex.load": (codes / "sid_index.safetensors", lambda: SIDIndex.load(codes)),
        "TokenSemantics.from_json": (meaning / "k.json", lambda: dict(TokenSemantics.from_json(meaning / "k.json"))),
        "load_prior": (
            priors / "item_prior.safetensors",
            lambda: load_prior(priors / "item_prior.safetensors", index)[1],
        ),
        "Quantizer.load": (
            quantizer / "residual_kmeans.safetensors",
            lambda: ResidualKMeans.load(quantizer).encode(vectors).tolist(),
        ),
        "load_embeddings": (embeddings / "embeddings.npy", lambda: load_embeddings(embeddings, index).tolist()),
        "load_embeddings, facts": (
            embeddings / "embeddings.json",
            lambda: load_embeddings(embeddings, index).tolist(),
        ),
        "AnswerCache": (answers / "a.jsonl", lambda: AnswerCache(answers / "a.jsonl").get({"q": 1})),
        "EmbeddingCache": (cached / "v", lambda: EmbeddingCache(cached / "v", 2).get(b"k" * 32) is not None),
        "load_table, JSON lines": (lines / "i.jsonl", lambda: _rows(load_table(lines / "r.jsonl", lines / "i.jsonl"))),
        "load_table, JSON rows": (lines / "r.jsonl", lambda: _rows(load_table(lines / "r.jsonl", lines / "i.jsonl"))),
        "load_table, CSV items": (table / "i.csv", lambda: _rows(load_table(table / "r.csv", table / "i.csv"))),
        "load_table, CSV rows": (table / "r.csv", lambda: _rows(load_table(table / "r.csv", table / "i.csv"))),
        "load_table, Parquet": (parquet / "i.parquet", lambda: _rows(load_table(None, parquet / "i.parquet"))),
        "load_amazon, reviews": (
            amazon / "r.jsonl",
            lambda: _rows(load_amazon(amazon / "r.jsonl", amazon / "m.jsonl")),
        ),
        "load_amazon, products": (
            amazon / "m.jsonl",
            lambda: _rows(load_amazon(amazon / "r.jsonl", amazon / "m.jsonl")),
        ),
        "load_recbole, items": (recbole / "toy.item", lambda: _rows(load_recbole(recbole))),
        "load_recbole, rows": (recbole / "toy.inter", lambda: _rows(load_recbole(recbole))),
        "load_sequences": (
            sequences / "s.txt",
            lambda: _rows(load_sequences(sequences / "s.txt", sequences / "i.csv")),
        ),
    }
    for name in ("item.json", "index.json", "train.csv", "test.csv"):
        found[f"load_minionerec, {name}"] = (mini / name, lambda: load_minionerec(mini).train.to_dict())
    for name in ("X.item.json", "X.inter.json", "X.index.json"):
        found[f"load_lcrec, {name}"] = (lcrec / name, lambda: load_lcrec(lcrec).train.to_dict())
    for name in ("dataset.json", "items.parquet", "sid_index.safetensors"):
        found[f"RecommendationDataset.load, {name}"] = (
            saved / name,
            lambda: RecommendationDataset.load(saved).train.to_dict(),
        )
        found[f"open_dataset, {name}"] = (saved / name, lambda: open_dataset(saved).train.to_dict())
    return found


def _save_minionerec(made, folder: Path) -> None:
    from dataclasses import replace

    from tsrec_hf import save_minionerec

    save_minionerec(replace(made.make_dataset(), name="x"), folder)


def _rows(log) -> tuple:
    return log.items.to_dict(), log.interactions.to_dict()


def is_clear(error: BaseException, path: Path, by_name: bool = True) -> bool:
    """Ours: it says what was expected or is wrong, names the file or what is in it, and says what to do."""
    text = str(error.args[-1] if error.args else error)
    named = path.name in text or path.parent.name in text
    known = isinstance(error, (ValueError, TypeError, KeyError, FileNotFoundError, IsADirectoryError))
    # Where all rows went tells a table of stages.
    named = named or "| stage |" in text
    return known and bool(re.search(r"[Ee]xpected|is not|cannot be|is truncated", text)) and (named or not by_name)


def outcome(path: Path, read: Callable, expected: object, may_pass: bool) -> str:
    try:
        found = read()
    except Exception as error:
        return "clear" if is_clear(error, path) else f"unclear: {type(error).__name__}: {error}"
    if found == expected:
        return "right"
    return "right" if may_pass else f"silent: {str(found)[:200]}"


def test_spoiled_files(readers) -> None:
    outcomes: dict[tuple[str, str], str] = {}
    for name, (path, read) in readers.items():
        good, expected = path.read_bytes(), read()
        for kind, spoil in SPOIL.items():
            path.write_bytes(spoil(good))
            # What a cache does not hold is asked for again: the files shorter than a record, or without a line.
            again = name.endswith("Cache") and len(spoil(good)) < 40
            outcomes[name, kind] = outcome(path, read, expected, kind in MAY_PASS or again)
        path.unlink()
        outcomes[name, "missing"] = outcome(path, read, expected, name.endswith("Cache"))
        path.mkdir()
        outcomes[name, "a folder"] = outcome(path, read, expected, False)
        path.rmdir()
        path.write_bytes(good)
        assert read() == expected
    assert len(readers) == NUM_READERS
    counts = Counter(found.partition(":")[0] for found in outcomes.values())
    print(dict(counts))
    assert len(outcomes) >= 300
    bad = {case: found for case, found in outcomes.items() if found not in ("clear", "right")}
    assert not bad, "\n".join(f"{case}: {found}" for case, found in bad.items())


@pytest.mark.slow
@pytest.mark.parametrize("number", range(NUM_READERS))
def test_mutated_files(readers, number: int) -> None:
    """About ten seconds for each reader: bytes changed, cut out, doubled and put in, of the right file."""
    name = sorted(readers)[number]
    path, read = readers[name]
    good = path.read_bytes()
    edits = st.tuples(
        st.integers(0, max(len(good) - 1, 0)),
        st.integers(0, 30),
        st.one_of(
            st.binary(max_size=20), st.sampled_from([b'"', b"{", b"[", b",", b"\n", b"\t", b"null", b"1e999", b"\0"])
        ),
    )

    @settings(max_examples=600, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(edits, min_size=1, max_size=4))
    def mutated(changes) -> None:
        content = good
        for start, length, put in changes:
            content = content[:start] + put + content[start + length :]
        path.write_bytes(content)
        try:
            read()
        except Exception as error:
            # What does not fit other files is told by what it is.
            assert is_clear(error, path, by_name=False), f"{name}: {type(error).__name__}: {error}"

    try:
        mutated()
    finally:
        path.write_bytes(good)
