import pyarrow as pa

from tsrec_hf.items import InteractionLog, LogSummary, leave_one_out_split, tidy


def test_table_by_hand():
    items = pa.table({"item_id": [str(n) for n in range(1200)]})
    interactions = pa.table({"user_id": ["a", "a", "b"]})
    summary = LogSummary().add("given", items, interactions).add("fewer", items[:100], interactions[:2])
    assert str(summary).splitlines() == [
        "| stage | items | users | interactions |",
        "| --- | --- | --- | --- |",
        "| given | 1,200 | 2 | 3 |",
        "| fewer | 100 (-1,100) | 1 (-1) | 2 (-1) |",
    ]


def test_splits_are_added(dataset):
    lines = str(LogSummary().with_splits(dataset)).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| rows of train", "| rows of valid", "| rows of test"]
    targets = set(dataset.train["target"][:])
    users = set(dataset.train["user_id"][:])
    assert lines[2] == f"| rows of train | {len(targets)} | {len(users)} | {len(dataset.train)} |"


def test_stages_of_a_whole_run():
    from datasets import Dataset

    items = Dataset.from_dict({"item_id": ["1", "2"], "title": ["Nut", ""], "description": ["", ""]})
    interactions = Dataset.from_dict(
        {"user_id": ["a"] * 5, "item_id": ["1", "1", "1", "2", "1"], "timestamp": [1.0, 2.0, 3.0, 4.0, 1.0]}
    )
    log = tidy(InteractionLog(items, interactions))
    final = log.summary.with_splits(log.split(leave_one_out_split))
    assert [stage[1:] for stage in final.splits] == [(0, 0, 0), (1, 1, 1), (1, 1, 1)]
    # What each stage took away adds up to what is gone.
    assert final.stages[0].interactions - final.stages[-1].interactions == 2
    assert final.stages[-1].interactions == len(log.interactions)
