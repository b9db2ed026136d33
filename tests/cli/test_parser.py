"""Command lines from dataclasses."""

import re
from dataclasses import dataclass, field, fields
from typing import Literal

import pytest
from transformers import HfArgumentParser
from trl import ModelConfig

from tsrec_hf.cli.parser import make_parser, parse
from tsrec_hf.data import BUILT_IN_TASKS
from tsrec_hf.items.readers import PUBLISHED
from tsrec_hf.recipes import options, raw_data
from tsrec_hf.recipes.build import QUANTIZERS
from tsrec_hf.rewards import REWARDS
from tsrec_hf.trainers import TSRecGRPOConfig, TSRecSFTConfig


@dataclass
class Search:
    """How to search."""

    folder: str = field(metadata={"help": "Where.", "aliases": ["--dir"]})
    beams: int = field(default=50, metadata={"help": "How many."})
    ids: list[str] = field(default_factory=list, metadata={"help": "Which."})
    kind: Literal["beam", "exact"] = field(default="beam", metadata={"help": "How."})
    exclude: bool = field(default=True, metadata={"help": "Without the history?"})
    fitted: bool | None = field(default=None, metadata={"help": "100% of it?"})


def read(*words: str) -> Search:
    return parse(make_parser("find", [Search], epilog="Example: find --dir here"), Search, words)


@pytest.mark.parametrize(
    "words",
    [
        ["--folder", "x"],
        ["--folder", "x", "--beams", "3", "--ids", "007", "8", "--kind", "exact"],
        ["--folder", "x", "--exclude", "false", "--fitted", "true"],
        ["--folder=x", "--exclude"],
    ],
)
def test_it_reads_what_transformers_parser_reads(words: list[str]) -> None:
    assert read(*words) == HfArgumentParser(Search).parse_args_into_dataclasses(words)[0]


def test_other_spellings_and_a_configuration(tmp_path) -> None:
    path = tmp_path / "find.yaml"
    path.write_text("dir: there\nbeams: 7\nids: [007, a]\nexclude: false\n")
    assert read("--config", str(path)) == Search("there", 7, ["7", "a"], exclude=False)
    assert read("--config", str(path), "--beams", "8", "--dir", "here").beams == 8
    path.write_text("beam: 7\n")
    with pytest.raises(SystemExit) as end:
        read("--config", str(path))
    assert end.value.code == 2


def test_errors_name_all_that_is_missing_and_an_example(capsys) -> None:
    with pytest.raises(SystemExit):
        read("--beams", "3")
    told = capsys.readouterr().err
    assert "--dir: Where." in told and "Example: find --dir here" in told and "find --help" in told
    for words in (["--dir", "x", "--kind", "best"], ["--dir", "x", "--beams", "x"], ["--dir", "x", "--beam", "3"]):
        with pytest.raises(SystemExit) as end:
            read(*words)
        assert end.value.code == 2 and len(capsys.readouterr().err.splitlines()) <= 3


def test_the_help_has_groups_and_true_defaults() -> None:
    text = make_parser("find", [Search]).format_help()
    assert "How to search:" in text and "None" not in text and "(default: 50)" in text and "(default: true)" in text
    assert re.search("--dir( FOLDER)?, --folder FOLDER", text) and "Where. Required." in text and "100% of it?" in text


def test_what_options_say_is_what_the_package_has() -> None:
    """Options are read without importing what has these."""
    assert raw_data.PUBLISHED == tuple(PUBLISHED) and options.TASKS == tuple(BUILT_IN_TASKS)
    assert options.REWARDS == tuple(REWARDS) and options.QUANTIZERS == tuple(QUANTIZERS)


def test_the_usual_options_of_a_trainer_have_its_defaults() -> None:
    """But for the learning rate, which is another for each method."""
    theirs = {one.name: one for kind in (ModelConfig, TSRecSFTConfig) for one in fields(kind)}
    grpo = {one.name for one in fields(TSRecGRPOConfig)} | {one.name for one in fields(ModelConfig)}
    for one in fields(options.UsualTrainerOptions):
        assert one.name in theirs and one.name in grpo
        if one.name not in ("model_name_or_path", "learning_rate"):
            assert one.default == theirs[one.name].default, one.name
