import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tsrec_hf.serving import plan_shards, read_results, run_shards


TABLE = pa.table({"user_id": [f"u{n}" for n in range(23)], "number": range(23)})


def doubled(table):
    return pa.table({"user_id": table["user_id"], "twice": [2 * n for n in table["number"].to_pylist()]})


@pytest.fixture(params=["parquet", "folder", "jsonl"])
def source(request, tmp_path):
    if request.param == "jsonl":
        path = tmp_path / "in.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in TABLE.to_pylist()))
        return path
    if request.param == "folder":
        (tmp_path / "in").mkdir()
        for number, start in enumerate((0, 9)):
            part = TABLE.slice(start, (9, 14)[number])
            pq.write_table(part, tmp_path / "in" / f"{number}.parquet", row_group_size=4)
        return tmp_path / "in"
    pq.write_table(TABLE, tmp_path / "in.parquet", row_group_size=4)
    return tmp_path / "in.parquet"


def test_results_stand_in_the_order_of_the_rows(source, tmp_path):
    shards = plan_shards(source, tmp_path / "out", rows_per_shard=5)
    assert len(shards) == 5 and [len(shard.read()) for shard in shards][-1] in (3, 4)
    assert run_shards(shards, doubled, ["user_id", "number"]) == 23
    assert read_results(shards).to_pydict() == doubled(TABLE).to_pydict()
    assert pq.read_table(tmp_path / "out").num_rows == 23


def test_a_stopped_job_goes_on(source, tmp_path):
    shards = plan_shards(source, tmp_path / "out", rows_per_shard=5, settings={"top_k": 3})
    calls = []

    def dies(table):
        calls.append(len(table))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return doubled(table)

    with pytest.raises(KeyboardInterrupt):
        run_shards(shards, dies)
    assert [shard.is_finished for shard in shards] == [True, True, False, False, False]
    before = os.stat(shards[0].target).st_mtime_ns
    again = plan_shards(source, tmp_path / "out", rows_per_shard=5, settings={"top_k": 3})
    assert again == shards and run_shards(again, doubled) == 23 - calls[0] - calls[1]
    assert os.stat(shards[0].target).st_mtime_ns == before
    assert read_results(shards).to_pydict() == doubled(TABLE).to_pydict()


def test_a_folder_of_another_job_is_refused(source, tmp_path):
    plan_shards(source, tmp_path / "out", settings={"top_k": 3})
    with pytest.raises(ValueError, match="tells of another one: other inputs or settings"):
        plan_shards(source, tmp_path / "out", settings={"top_k": 4})
    with pytest.raises(FileNotFoundError, match="Expected Parquet files or JSON lines"):
        plan_shards(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(ValueError, match="`rows_per_shard` of at least 1"):
        plan_shards(source, tmp_path / "out", rows_per_shard=0)
