"""One list of data sets, for the terminal and for the docs."""

import re
from pathlib import Path

from tsrec_hf.cli import main
from tsrec_hf.recipes.raw_data import FORMATS, PUBLISHED
from tsrec_hf.recipes.sources import SOURCES, as_markdown


PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_the_docs_have_the_commands_list(capsys) -> None:
    assert as_markdown() in PAGE, f"Put this into docs/data.md:\n{as_markdown()}"
    assert main(["data", "--list"]) == 0
    printed = capsys.readouterr().out
    assert all(source.name in printed and source.page in printed for source in SOURCES)
    assert max(map(len, printed.splitlines())) <= 160


def test_every_form_has_a_source_and_every_source_a_form() -> None:
    forms = {source.form for source in SOURCES if source.form}
    assert forms <= set(FORMATS) and set(PUBLISHED) <= forms
    # The table that says what of each is read names the same data sets.
    table = PAGE.split("## Published data sets")[1]
    assert set(re.findall(r"^\| (`[a-z0-9`, ]+) \|", table, flags=re.MULTILINE)) == {
        *(f"`{form}`" for form in PUBLISHED),
        "`amazon`, `amazon2014`, `amazon2018`, `amazon2023`",
    }
