"""Jobs on Ray: equal to one process, row for row, also when an actor is killed. Needs the extra `ray`."""

import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import BoW

from tsrec_hf import ResidualKMeans, build_sequence_rows, embed_items, resolve_collisions
from tsrec_hf.serving import RecommendBatch, plan_shards, read_results, run_shards, run_shards_on_ray
from tsrec_hf.serving.ray_rows import file_of_user
from tsrec_hf.serving.vectors import as_lists


pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "ray"


@pytest.fixture(scope="module", autouse=True)
def ray():
    ray = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray's workers give way to every other process, and would starve on a machine that is busy.
    os.environ["RAY_worker_niceness"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000)
    yield ray
    ray.shutdown()


@pytest.fixture
def checkpoint(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def users(sid_index, tmp_path):
    drawn = np.random.default_rng(0)
    histories = [drawn.choice(sid_index.item_ids, size=drawn.integers(1, 5)).tolist() for _ in range(40)]
    table = pa.table({"user_id": [f"u{n}" for n in range(40)], "history": histories})
    pq.write_table(table, tmp_path / "users.parquet")
    return tmp_path / "users.parquet"


def test_two_workers_give_the_lists_of_one_process(checkpoint, users, tmp_path, ray):
    recommend = RecommendBatch(checkpoint, device="cpu", top_k=3)
    alone = plan_shards(users, tmp_path / "alone", rows_per_shard=8)
    run_shards(alone, recommend)
    together = plan_shards(users, tmp_path / "together", rows_per_shard=8)
    assert run_shards_on_ray(together, recommend, num_workers=2) == 40
    assert read_results(together).equals(read_results(alone))
    assert run_shards_on_ray(together, recommend, num_workers=2) == 0
    # The callable by itself, as `map_batches` takes it.
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    plain = ray.data.read_parquet(str(users)).map_batches(
        RecommendBatch,
        fn_constructor_args=(checkpoint,),
        fn_constructor_kwargs={"top_k": 3},
        batch_size=8,
        concurrency=1,
    )
    lists = {row["user_id"]: list(row["items"]) for row in plain.iter_rows()}
    assert lists == {row["user_id"]: row["items"] for row in read_results(alone).to_pylist()}


class KilledOnce:
    """Kills its own process in the middle of a shard, once."""

    def __init__(self, marker: str):
        self.marker = marker

    def __call__(self, table: pa.Table) -> pa.Table:
        with open(f"{self.marker}.calls", "a") as file:
            file.write(f"{table['user_id'][0]}\n")
        if table["user_id"][0].as_py() == "u16" and not os.path.exists(self.marker):
            open(self.marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.2)
        return table.select(["user_id"])


def test_a_killed_actor_loses_nothing_and_repeats_nothing(users, tmp_path):
    shards = plan_shards(users, tmp_path / "out", rows_per_shard=8)
    run_shards_on_ray(shards, KilledOnce(str(tmp_path / "killed")), num_workers=2)
    assert (tmp_path / "killed").exists()
    assert read_results(shards)["user_id"].to_pylist() == [f"u{n}" for n in range(40)]
    calls = (tmp_path / "killed.calls").read_text().split()
    # Five shards, and the one that its actor did not finish twice.
    assert sorted(calls) == sorted(["u0", "u8", "u16", "u16", "u24", "u32"])
    assert not [
        path for path in (tmp_path / "out").iterdir() if path.suffix == ".parquet" and path.stat().st_size == 0
    ]


def test_recommend_example(checkpoint, users, tmp_path, model, tokenizer):
    script = runpy.run_path(str(EXAMPLES / "recommend.py"))
    args = script["ScriptArguments"](str(checkpoint), str(users), str(tmp_path / "lists"), top_k=2, num_beams=8)
    script["main"](args)
    table = pq.read_table(tmp_path / "lists")
    histories = pq.read_table(users)["history"].to_pylist()
    lists = model.recommend(tokenizer, histories, top_k=2, num_beams=8, exclude_history=True)
    assert table["items"].to_pylist() == [[item.item_id for item in one] for one in lists]


def test_the_line_of_the_readme(model, tokenizer, users, tmp_path):
    """As it is pasted: Ray starts by itself, and the checkpoint is where `make demo` leaves it."""
    [command] = re.findall(r"^python (examples/ray/recommend.py .*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    script, *options = shlex.split(command)
    model.save_pretrained(tmp_path / "outputs" / "demo" / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "outputs" / "demo" / "checkpoint")
    run = subprocess.run(
        [sys.executable, str(ROOT / script), *options], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    assert "40 users in this run; 1 files in outputs/lists" in run.stdout
    table = pq.read_table(tmp_path / "outputs" / "lists")
    assert table.column_names == ["user_id", "items", "scores"]
    lists = model.recommend(tokenizer, pq.read_table(users)["history"].to_pylist(), exclude_history=True)
    assert table["items"].to_pylist() == [[item.item_id for item in one] for one in lists]


def test_embed_example_gives_the_vectors_of_one_process(tmp_path):
    encoder = SentenceTransformer(modules=[BoW(["hammer", "steel", "nail", "saw"])], device="cpu")
    encoder.save(str(tmp_path / "encoder"))
    titles = ["hammer steel", "nail", "saw nail", "steel saw"] * 10
    items = {"item_id": [f"i{number}" for number in range(40)], "title": titles}
    Dataset.from_dict(items).to_json(tmp_path / "items.jsonl")
    script = runpy.run_path(str(EXAMPLES / "embed_items.py"))
    args = script["ScriptArguments"](
        str(tmp_path / "items.jsonl"),
        str(tmp_path / "out"),
        str(tmp_path / "encoder"),
        num_workers=2,
        rows_per_shard=9,
    )
    script["main"](args)
    table = pq.read_table(tmp_path / "out")
    assert table["item_id"].to_pylist() == items["item_id"]
    expected = embed_items(Dataset.from_dict(items), encoder, fields={"title": 1.0})
    assert np.array(table["embedding"].to_pylist()) == pytest.approx(expected)


def test_encode_example_gives_the_codes_of_one_process(tmp_path):
    drawn = np.random.default_rng(0)
    embeddings = drawn.normal(size=(20, 6))[drawn.integers(20, size=400)] + 0.1 * drawn.normal(size=(400, 6))
    embeddings = embeddings.astype(np.float32)
    ids = [f"i{n}" for n in range(400)]
    pq.write_table(pa.table({"item_id": ids, "embedding": as_lists(embeddings)}), tmp_path / "items.parquet")
    script = runpy.run_path(str(EXAMPLES / "encode_items.py"))
    args = script["ScriptArguments"](
        str(tmp_path / "items.parquet"), str(tmp_path / "out"), [8, 8, 8], sample=200, num_workers=2, rows_per_shard=90
    )
    script["main"](args)
    quantizer = ResidualKMeans.load(tmp_path / "out")
    together = resolve_collisions(quantizer.encode(embeddings), embeddings, quantizer)
    assert (quantizer.encode(embeddings) != together).any()
    table = pq.read_table(tmp_path / "out" / "codes.parquet")
    assert table["item_id"].to_pylist() == ids and table["codes"].to_pylist() == together.tolist()


def test_rows_of_a_shuffled_log(checkpoint, tokenizer, sid_index, tmp_path):
    drawn = np.random.default_rng(0)
    log = {
        "user_id": [f"u{n}" for n in drawn.integers(30, size=300)],
        "item_id": drawn.choice(sid_index.item_ids, size=300).tolist(),
        "timestamp": drawn.integers(50, size=300).astype(float).tolist(),
    }
    pq.write_table(pa.table(log), tmp_path / "log.parquet")
    out = tmp_path / "rows"
    script = runpy.run_path(str(EXAMPLES / "build_rows.py"))
    args = script["ScriptArguments"](
        str(checkpoint), str(tmp_path / "log.parquet"), str(out), num_files=4, num_workers=2, rows_per_shard=70
    )
    script["main"](args)
    order = sorted(range(300), key=lambda n: (log["user_id"][n], log["timestamp"][n]))
    in_order = Dataset.from_dict(log).select(order)
    for number in range(4):
        own = in_order.filter(lambda row: file_of_user(row["user_id"], 4) == number)
        rows = pq.read_table(out / f"rows-{number:05d}.parquet")
        assert rows.to_pydict() == build_sequence_rows(own, tokenizer).to_dict()
    # A run that was stopped: files that are there stay as they are.
    before = {path: path.stat().st_mtime_ns for path in out.glob("rows-*")}
    removed = out / "rows-00002.parquet"
    rows = pq.read_table(removed)
    removed.unlink()
    script["main"](args)
    after = {path: path.stat().st_mtime_ns for path in out.glob("rows-*")}
    assert pq.read_table(removed).equals(rows)
    assert {path for path in after if after[path] != before[path]} == {removed}
