"""Text files as they are found: delimiters, encodings, quotes, headers, and what cannot be read."""

import gzip

import pytest

from tsrec_hf.items import TableFile, load_table
from tsrec_hf.items.readers import delimited, dialects, json_lines


NAMES = ["item_id", "title"]
LOG = "user_id,item_id,timestamp\na,1,5\nb,2,6\n"


def titles_of(path, items=None, **options):
    """Reads a catalogue alone."""
    log = load_table(None, path if items is None else items, untitled="keep", **options)
    return dict(zip(log.items["item_id"][:], log.items["title"][:]))


def write(tmp_path, text, name="items.tsv", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


class TestQuotes:
    def test_a_tsv_has_none_unless_they_balance(self, tmp_path):
        rows = [
            '1\t"Alien, the novel',
            "2\tSaw",
            '3\tThe "Best" of',
            '4\t6" nail',
            '5\t"Quoted"',
            '6\t"Misérables", Les',
        ]
        path = write(tmp_path, "\n".join(["item_id\ttitle", *rows]))
        assert titles_of(path) == dict(row.split("\t") for row in rows)

    def test_a_quoted_cell_that_holds_rows_is_warned_of(self, tmp_path, caplog):
        path = write(tmp_path, 'item_id,title\n1,"Alien, the\n2,Saw\n3,Nut"\n4,Bolt\n', "items.csv")
        assert list(titles_of(path)) == ["1", "4"]
        assert "1 cells in quotes" in caplog.text and "first on line 2" in caplog.text and "--quotes" in caplog.text
        caplog.clear()
        write(tmp_path, 'item_id,title\n1,"Alien,\nthe novel"\n2,Saw\n', "items.csv")
        assert titles_of(path) == {"1": "Alien, the novel", "2": "Saw"} and not caplog.text

    def test_quotes_that_balance_are_taken_off(self, tmp_path):
        path = write(tmp_path, 'item_id\ttitle\n1\t"The ""Best"" of"\n"2"\tSaw\n3\t""\n4\t6" nail\r\n')
        assert titles_of(path) == {"1": 'The "Best" of', "2": "Saw", "3": "", "4": '6" nail'}

    def test_titles_in_quotes_over_two_columns(self, tmp_path):
        # Read as quoted, the second line would lack a column.
        path = write(tmp_path, 'item_id\ttitle\tdescription\n1\t"Alien\tthe novel"\n')
        assert titles_of(path) == {"1": '"Alien'}

    def test_cells_over_several_lines(self, tmp_path):
        text = 'item_id,title\n1,"Glue\nstrong, very"\n\n2,"Saw"\n'
        assert titles_of(write(tmp_path, text, "items.csv")) == {"1": "Glue strong, very", "2": "Saw"}
        tabs = text.replace(",", "\t", 1).replace("1,", "1\t").replace("2,", "2\t")
        path = write(tmp_path, tabs)
        assert titles_of(path, quotes=True) == {"1": "Glue strong, very", "2": "Saw"}
        with pytest.raises(ValueError, match="items.tsv is not .*line 3 has 1, the header 2.*`quotes=True`"):
            titles_of(path)

    @pytest.mark.parametrize(
        ("rows", "line"),
        [
            (['1,"Alien, the novel', "2,Saw", '3,"Nut', "4,Glue"], 1),
            (["1,Nut", '2,"Saw', "3,Glue"], 2),
        ],
    )
    def test_a_stray_quote_in_a_csv_does_not_swallow_rows(self, tmp_path, rows, line):
        path = write(tmp_path, "\n".join(["item_id,title", *rows, ""]), "items.csv")
        with pytest.raises(ValueError, match=rf"items.csv cannot be read after line {line}.*quote.*`quotes=False`"):
            titles_of(path)
        rows = [row.replace("Alien, the", "Alien the") for row in rows]
        write(tmp_path, "\n".join(["item_id,title", *rows, ""]), "items.csv")
        assert titles_of(path, quotes=False) == dict(row.split(",") for row in rows)

    def test_quotes_escaped_by_a_backslash(self, tmp_path):
        text = 'item_id;title\n"1";"The \\"Best\\"; of"\n"2";"Saw"\n'
        path = write(tmp_path, text, "items.csv")
        file = TableFile(path, delimiter=";", escape="\\")
        assert titles_of(file) == {"1": 'The "Best"; of', "2": "Saw"}


@pytest.mark.parametrize("delimiter", ["::", "|", ";", "\t", "||", "¦"])
@pytest.mark.parametrize("suffix", ["txt", "dat", "csv"])
def test_delimiters(tmp_path, delimiter, suffix):
    text = "\n".join(delimiter.join(row) for row in (NAMES, ["1", "Nut, steel"], ["2", "Saw: hand"]))
    path = write(tmp_path, text, f"items.{suffix}")
    expected = {"1": "Nut, steel", "2": "Saw: hand"}
    assert titles_of(path, delimiter=delimiter) == expected
    if suffix != "csv" and delimiter in dialects.CANDIDATES:
        assert titles_of(path) == expected
    elif delimiter != "||":
        with pytest.raises(ValueError, match="delimiter"):
            titles_of(path)


@pytest.mark.parametrize("encoding", ["latin-1", "gbk", "utf-16", "shift_jis", "cp1252"])
def test_encodings(tmp_path, encoding):
    title = {"latin-1": "Misérables", "cp1252": "“Misérables”", "utf-16": "锤子 é"}.get(encoding, "漢字")
    path = write(tmp_path, f"item_id\ttitle\n1\t{title}\n2\tSaw\n", encoding=encoding)
    assert titles_of(path, encoding=encoding) == {"1": title, "2": "Saw"}
    if encoding == "utf-16":
        assert titles_of(path) == {"1": title, "2": "Saw"}
    else:
        with pytest.raises(ValueError, match="items.tsv is not a UTF-8 table: line 2 has b.*`encoding`"):
            titles_of(path)
    with pytest.raises(ValueError, match="an encoding that Python knows, .* found 'latin-99'"):
        titles_of(path, encoding="latin-99")


def test_a_delimiter_of_several_characters_at_the_border_of_blocks(tmp_path, monkeypatch):
    rows = [[f"{number}", "x" * (number % 7) + ": y"] for number in range(200)]
    path = write(tmp_path, "\n".join("::".join(row[::-1]) for row in [NAMES, *rows]), "items.dat")
    for size in (1, 7, 64):
        monkeypatch.setattr(dialects, "BLOCK_BYTES", size)
        assert titles_of(path) == {number: title for number, title in rows}


def test_the_character_that_stands_for_a_delimiter_of_several(tmp_path):
    path = write(tmp_path, "item_id::title\n1::Nut\x1fsteel\n", "items.dat")
    with pytest.raises(ValueError, match=r"items.dat without the control character '\\x1f'.*Remove it"):
        titles_of(path)


def test_a_file_that_grows_while_it_is_read(tmp_path, monkeypatch):
    path = write(tmp_path, "item_id,title\n1,Nut\n\n2,Saw\n", "items.csv")
    count = delimited._raise_for_line

    def grow_and_count(dialect):
        with path.open("a") as file:
            file.write("3,Glue\n")
        return count(dialect)

    monkeypatch.setattr(delimited, "_raise_for_line", grow_and_count)
    with pytest.raises(ValueError, match=r"Expected \d rows in .*items.csv, but read \d"):
        titles_of(path)


def test_blocks_are_read_in_pieces_and_counted():
    stream = dialects.BlockStream(iter([b"1,2\n", b"3,4"]))
    assert stream.readable() and stream.read(3) == b"1,2"
    assert stream.read() == b"\n3,4" and stream.lines == 2


def test_files_without_a_header(tmp_path):
    items = write(tmp_path, "1::Nut::Tools\n2::Saw::Tools|Wood\n", "movies.dat")
    log = write(tmp_path, "a::1::5::978300760\nb::2::3::978302109\n", "ratings.dat")
    names = {"item_names": ["item_id", "title", "genres"]}
    names["interaction_names"] = ["user_id", "item_id", "rating", "timestamp"]
    for header in (None, False):
        read = load_table(log, items, header=header, item_columns={"description": "genres"}, **names)
        assert read.items["description"][:] == ["Tools", "Tools|Wood"]
        assert read.interactions.to_list()[1] == {
            "user_id": "b",
            "item_id": "2",
            "timestamp": 978302109.0,
            "rating": 3.0,
        }
    with pytest.raises(
        ValueError, match="names of the columns of .*movies.dat, because it has no header.*`item_names"
    ):
        load_table(log, items, header=False)
    # With a header, names replace those of the file.
    titled = write(tmp_path, "nr,name\n1,Nut\n", "titled.csv")
    assert titles_of(titled, header=True, item_names=NAMES) == {"1": "Nut"}


def test_a_missing_header_is_the_cause_that_is_named(tmp_path):
    path = write(tmp_path, "a,1,5\nb,2,6\n", "log.csv")
    items = write(tmp_path, "item_id,title\n1,Nut\n2,Saw\n", "items.csv")
    with pytest.raises(
        ValueError, match="missing from .'a', '1', '5'.*If the first line is a row, .*`interaction_nam"
    ):
        load_table(path, items)
    with pytest.raises(ValueError, match="'item_id;title'.*separated by ';': pass it as `delimiter`"):
        titles_of(write(tmp_path, "item_id;title\n1;Nut\n", "other.csv"))


def test_an_empty_file_is_said_to_be_empty(tmp_path):
    with pytest.raises(ValueError, match="Expected a table in .*items.tsv, but it is empty"):
        titles_of(write(tmp_path, ""))


def test_recboles_types_are_no_part_of_a_name(tmp_path):
    log = write(tmp_path, "user_id:token\titem_id:token\ttimestamp:float\na\t1\t5\n", "toy.inter")
    items = write(tmp_path, "item_id:token\tmovie_title:token_seq\n1\tNut\n", "toy.item")
    read = load_table(log, items, item_columns={"title": "movie_title"})
    assert read.interactions.to_list() == [{"user_id": "a", "item_id": "1", "timestamp": 5.0}]


class TestValues:
    def read(self, tmp_path, rows, header="user_id,item_id,timestamp,rating", **options):
        log = write(tmp_path, "\n".join([header, *rows, ""]), "log.csv")
        items = write(tmp_path, "item_id,title\n1,Nut\n2,Saw\n", "items.csv")
        return load_table(log, items, **options)

    def test_nanoseconds(self, tmp_path):
        times = [1_700_000_000_000_000_001, 1_500_000_000_000_000_000]
        log = self.read(tmp_path, [f"a,{row},{time},5" for row, time in enumerate(times, start=1)])
        assert log.interactions["timestamp"][:] == [float(time) for time in times]

    def test_words_in_a_column_that_nobody_asked_for(self, tmp_path, caplog):
        log = self.read(tmp_path, ["a,1,5,4", "a,2,6,good"])
        assert "rating" not in log.interactions.column_names and len(log.interactions) == 2
        assert "column 'rating' of" in caplog.text and "line 3 has 'good'" in caplog.text and "Left out" in caplog.text

    @pytest.mark.parametrize("asked", [{"min_rating": 3}, {"interaction_columns": {"rating": "rating"}}])
    def test_words_in_a_column_that_is_needed(self, tmp_path, asked):
        with pytest.raises(ValueError, match="column 'rating' of .*log.csv to hold numbers, but line 3 has 'good'"):
            self.read(tmp_path, ["a,1,5,4", "a,2,6,good"], **asked)

    def test_columns_that_are_not_read_may_hold_anything(self, tmp_path):
        path = tmp_path / "log.csv"
        path.write_bytes(b"user_id,item_id,timestamp,note\na,1,5,\xff\xfe\nb,2,6,x\n")
        items = write(tmp_path, "item_id,title,title_de,x,x\n1,Nut,,1,2\n2,Saw,,3,4\n", "items.csv")
        assert len(load_table(path, items).interactions) == 2

    def test_missing_values_are_one_rule(self, tmp_path):
        rows = ["NULL,1,5,4", "nan,1,5,4", "a,1,NULL,3", "a,2,6,nan", "b, 1,  7,", "b,1,\\N,2", "c,1,8,5"]
        log = self.read(tmp_path, rows, min_rating=0)
        assert log.interactions.to_list() == [{"user_id": "c", "item_id": "1", "timestamp": 8.0, "rating": 5.0}]
        assert "2 values such as NULL, nan or None taken as missing" in str(log.summary)
        assert "| interactions without user, item or time dropped | 2 | 3 (-1) | 3 (-4) |" in str(log.summary)

    def test_dates_in_several_forms(self, tmp_path):
        rows = ["a,1,1970-01-02,1", "a,2,1970-01-02T00:00:01Z,1", "b,1,1970-01-02 01:00:02+01:00,1", "b,2,None,1"]
        assert self.read(tmp_path, rows).interactions["timestamp"][:] == [86400.0, 86401.0, 86402.0]
        rows = ["a,1,Fri Jan 02 01:00:00 +0100 1970,1"]
        assert self.read(tmp_path, rows).interactions["timestamp"][:] == [86400.0]

    def test_lines_are_counted_past_empty_ones_and_long_cells(self, tmp_path):
        rows = ['"a\nb",1,5,1', "", "c,2,yesterday,1"]
        with pytest.raises(ValueError, match="column 'timestamp' of .*log.csv.* line 5 has 'yesterday'"):
            self.read(tmp_path, rows)

    def test_order_in_the_place_of_times(self, tmp_path):
        log = self.read(tmp_path, ["a,1", "b,2", "a,2"], "user_id,item_id", interaction_columns={"timestamp": None})
        assert log.interactions["timestamp"][:] == [0.0, 1.0, 2.0]
        with pytest.raises(ValueError, match=r"\['timestamp'\] are missing.*`None` in its place says that the rows"):
            self.read(tmp_path, ["a,1"], "user_id,item_id")

    def test_filters(self, tmp_path):
        rows = ["a,1,5,view", "a,2,6,purchase", "b,2,7,cart", "b,1,8,purchase"]
        header = "user_id,item_id,timestamp,event"
        log = self.read(tmp_path, rows, header, filters={"event": "purchase"})
        assert log.interactions["timestamp"][:] == [6.0, 8.0] and "event" not in log.interactions.column_names
        assert "| rows of event = purchase kept | 2 | 2 | 2 (-2) |" in str(log.summary)
        log = self.read(tmp_path, rows, header, filters={"event": ["purchase", "cart"], "user_id": "b"})
        assert log.interactions["timestamp"][:] == [7.0, 8.0]
        with pytest.raises(ValueError, match=r"rows with \['buy'\] in column 'event' .* values are \['purchase', "):
            self.read(tmp_path, rows, header, filters={"event": "buy"})
        with pytest.raises(ValueError, match=r"\['kind'\] are missing .*Correct the `filters`"):
            self.read(tmp_path, rows, header, filters={"kind": "buy"})


def test_arrow_reads_across_blocks(tmp_path, monkeypatch):
    from tsrec_hf.items.readers import delimited

    monkeypatch.setattr(delimited, "BLOCK_BYTES", 64)
    monkeypatch.setattr(dialects, "BLOCK_BYTES", 50)
    rows = [f'{number},"Nut {number}\nof steel"' for number in range(200)]
    path = tmp_path / "items.csv.gz"
    path.write_bytes(gzip.compress("\n".join(["item_id,title", *rows]).encode("utf-8-sig")))
    assert titles_of(path) == {f"{number}": f"Nut {number} of steel" for number in range(200)}
    assert json_lines.BLOCK_BYTES > 64
