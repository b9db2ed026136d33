"""The one rule for missing values: which spellings of text files and data frames mean that there is none."""

import pyarrow as pa
import pyarrow.compute as pc

from .columns import is_text


# `NA` is not among them: it is a country, a title and an abbreviation.
SPELLINGS = ("", "NULL", "Null", "null", "NAN", "NaN", "Nan", "nan", "None", "<NA>", "\\N")
_VALUES = pa.array(SPELLINGS, pa.string())


def is_missing(texts: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Tells which strings are null, empty, white space or spell a missing value."""
    return pc.or_kleene(pc.is_null(texts), _spells_missing(texts))


def blank_missing(table: pa.Table) -> tuple[pa.Table, int]:
    """Empties the strings that are white space or spell a missing value, in all columns of text; and counts them."""
    count = 0
    for number, field in enumerate(table.schema):
        if not is_text(field.type):
            continue
        spelled = pc.and_(_spells_missing(table[field.name]), pc.not_equal(table[field.name], ""))
        found = pc.sum(spelled).as_py() or 0
        if found:
            blank = pc.if_else(spelled, pa.scalar("", field.type), table[field.name])
            table = table.set_column(number, field, blank)
            count += found
    return table, count


def _spells_missing(texts: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    return pc.is_in(pc.utf8_trim_whitespace(texts), value_set=_VALUES.cast(texts.type))
