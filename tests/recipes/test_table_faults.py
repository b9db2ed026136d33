"""Ten usual faults of two tables: a message of one screen, exit code 2, no traceback, and nothing trained."""

from pathlib import Path

import pytest

from tsrec_hf.cli import main
from tsrec_hf.recipes.raw_data import RawDataArguments
from tsrec_hf.recipes.table_faults import find_faults


ITEMS = ["item_id,title", *(f"i{number},Thing {number}" for number in range(20))]
LOG = ["user_id,item_id,timestamp"]
LOG += [f"u{user},i{(user + step) % 20},{100 * user + step}" for user in range(20) for step in range(5)]


def changed(lines: list[str], old: str, new: str) -> list[str]:
    return [line.replace(old, new) for line in lines]


FAULTS = {
    "semicolons": (changed(ITEMS, ",", ";"), LOG, ["separated by ';'. Pass --delimiter ';'"]),
    "missing columns": (
        ["sku,name", *ITEMS[1:]],
        ["customer,item_id,timestamp", *LOG[1:]],
        ["--item_columns item_id=sku title=name", "--interaction_columns user_id=customer"],
    ),
    "dates": (
        ITEMS,
        [LOG[0], *(f"{line.rsplit(',', 1)[0]},13/04/1997 15:{n % 60:02}" for n, line in enumerate(LOG[1:]))],
        ["line 2 has '13/04/1997 15:00'", "All fit '%d/%m/%Y %H:%M'", "--timestamp_format"],
    ),
    "no dates": (ITEMS, [*LOG, "u1,i1,soon"], ["line 102 has 'soon'"]),
    "unknown items": (
        ITEMS,
        LOG[:1] + changed(LOG[1:], ",i", ",x"),
        ["not among the items, such as 'x0'", "100 of 100 rows"],
    ),
    "repeated items": (ITEMS + ITEMS[1:6], LOG, ["item ids that repeat, such as 'i0'", "5 of 25 rows"]),
    "empty titles": (
        [line.split(",")[0] + "," if n > 15 else line for n, line in enumerate(ITEMS)],
        LOG,
        ["items without a title: 5 of 20 rows", "--max_faulty 0.3"],
    ),
    "encoding": ([ITEMS[0], "i0,Caf\xe9", *ITEMS[2:]], LOG, ["is not a UTF-8 table: line 2", "--encoding"]),
    "an empty file": ([], LOG, ["the file is empty"]),
    "no rows": (ITEMS, LOG[:1], ["column names and no rows"]),
    "few users": (ITEMS, LOG[:21], ["4 users have two interactions or more", "--interaction_columns user_id="]),
    "a row too long": (ITEMS, [*LOG, "u1,i1,7,8"], ["line 102 has 4", "the header 3"]),
}


def write(folder: Path, items: list[str], log: list[str]) -> list[str]:
    for name, lines in (("items.csv", items), ("log.csv", log)):
        # Latin-1, which for all but one of the tables is UTF-8 too.
        (folder / name).write_text("\n".join([*lines, ""]) if lines else "", encoding="latin-1")
    return ["train", "--items", str(folder / "items.csv"), "--interactions", str(folder / "log.csv")]


@pytest.mark.parametrize(("items", "log", "told"), FAULTS.values(), ids=FAULTS)
def test_a_usual_fault(items, log, told, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(write(tmp_path, items, log)) == 2
    printed = capsys.readouterr().err
    for words in told:
        assert words in printed, printed
    assert "Traceback" not in printed and len(printed.splitlines()) <= 20 and not (tmp_path / "outputs").exists()


def test_the_same_file_twice(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, ITEMS, LOG)
    assert main(["train", "--items", "log.csv", "--interactions", "log.csv"]) == 2
    assert "--items and --interactions name the same file, log.csv" in capsys.readouterr().err


def test_a_missing_file(tmp_path, capsys) -> None:
    words = write(tmp_path, ITEMS, LOG)
    assert main([*words[:-1], str(tmp_path / "lag.csv")]) == 2
    assert f"Did you mean '{tmp_path / 'log.csv'}'?" in capsys.readouterr().err


def test_all_faults_are_told_at_once(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    items = ["item_id,title", "i0,", "i0,Thing", "i1,Nut"]
    assert main(write(tmp_path, items, ["user_id,item_id,timestamp", "u,i0,soon", "u,x,7"])) == 2
    printed = capsys.readouterr().err
    assert [f"{number}. " in printed for number in range(1, 6)] == [True] * 5
    for words in ("repeat", "without a title", "'soon'", "not among the items", "0 users"):
        assert words in printed


def test_a_few_faulty_rows_are_a_warning(tmp_path) -> None:
    words = write(tmp_path, [*ITEMS, "i20,"], LOG)
    args = RawDataArguments(items_file=words[2], interactions_file=words[4])
    assert find_faults(args, 0.05).errors == [] and "1 of 21 rows are left out" in find_faults(args, 0.05).warnings[0]
    assert len(find_faults(args, 0.01).errors) == 1


def test_rows_that_a_filter_leaves_out_are_no_faults(tmp_path) -> None:
    bought = [f"{line},purchase" for line in LOG[1:]]
    searches = [f"u{number},,{number},search" for number in range(90)]
    words = write(tmp_path, ITEMS, [f"{LOG[0]},event", *searches, *bought])

    def errors(*filters: str) -> list[str]:
        args = RawDataArguments(items_file=words[2], interactions_file=words[4], filters=list(filters))
        return find_faults(args, 0.01).errors

    assert errors("event=purchase") == []
    assert "without user, item or time: 90 of 190 rows" in errors()[0]
    # Nothing else is said of rows that a mistaken filter would choose.
    assert len(errors("event=buy")) == len(errors("kind=purchase")) == 1
    assert "most frequent values are ['purchase', 'search']" in errors("event=buy")[0]


def test_untitled_items_that_are_kept_are_no_faults(tmp_path) -> None:
    words = write(tmp_path, [*ITEMS[:16], "i15,", "i16,", "i17,", "i18,", "i19,"], LOG)
    args = RawDataArguments(items_file=words[2], interactions_file=words[4], untitled="keep")
    faults = find_faults(args, 0.1)
    assert faults.errors == faults.warnings == []
