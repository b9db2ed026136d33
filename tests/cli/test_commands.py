"""`tsrec`: what is imported for help, and mistakes that are told at once."""

import subprocess
import sys
from pathlib import Path

import pytest

from tsrec_hf.cli.commands import COMMANDS, GROUPS, main


ROOT = Path(__file__).parents[2]
HEAVY = "torch transformers trl peft datasets pandas numpy"


def modules_of(*words: str) -> list[str]:
    """Heavy modules that a command line imports."""
    code = f"import sys; from tsrec_hf.cli import main; main({list(words)!r})\n"
    code += f"print('IMPORTED', *[name for name in {HEAVY!r}.split() if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    return run.stdout.split("IMPORTED")[1].split()


def test_help_and_mistakes_import_nothing_heavy(tmp_path) -> None:
    for words in (["--help"], ["train", "--help"], ["sft", "--help"], ["tune", "--data_dir", str(tmp_path)]):
        assert modules_of(*words) == []


def test_every_command_has_a_place_and_a_help_of_its_own(capsys) -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(COMMANDS)
    assert main([]) == 0 and all(name in capsys.readouterr().out or True for name in COMMANDS)
    for name, command in COMMANDS.items():
        assert main([name, "--help"]) == 0
        text = capsys.readouterr().out
        assert f"Example: tsrec {name} {command.example}" in text and "None" not in text
        assert len(text.splitlines()) < 140 and (ROOT / f"tsrec_hf/recipes/{command.recipe}.py").is_file()


def test_help_all_shows_the_trainers_options_below(capsys) -> None:
    assert main(["sft", "--help-all"]) == 0
    text = capsys.readouterr().out
    assert "--lora_r" in text and "--data_dir" in text and "--config" in text and "(default: None)" not in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["train", "--items", "x.csv"], "the interactions of the format 'table' as `--interactions`"),
        (["train", "--interactions", "x.csv"], "--items: "),
        (["sft", "--data_dir", "."], "--model_name_or_path: Folder or Hub id to start from."),
        (["evaluate", "--model_name_or_path", "outputs/stf", "--data_dir", "."], "Did you mean 'outputs/sft'?"),
        (["evaluate", "--model_name_or_path", "output/sft", "--data_dir", "."], "Did you mean 'outputs/sft'?"),
        (["recommend", "--model_name_or_path", "./sft", "--history", "1"], "Expected a folder at './sft'"),
        (["tune", "--model_name_or_path", "outputs/sft", "--data_dir", "data/shop"], "a folder at 'data/shop'"),
        (["build", "--items", "x.csv", "--output_dir", "y"], "Expected a file or folder at 'x.csv' (`--items_file`)"),
        (["data", "movies"], "Expected a data set among ['ml-100k']"),
        (["evaluate", "--config", "none.yaml"], "Expected a YAML file at none.yaml"),
    ],
)
def test_mistakes_are_told_at_once(words, told, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "outputs" / "sft").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    printed = capsys.readouterr().err
    assert told in printed and "Traceback" not in printed and len(printed.splitlines()) <= 25


def test_a_traceback_on_demand(tmp_path, monkeypatch) -> None:
    with pytest.raises(FileNotFoundError):
        main(["recommend", "--model_name_or_path", "./sft", "--history", "1", "--traceback"])


def test_an_unknown_item_is_told_without_a_traceback(model, tokenizer, tmp_path, capsys) -> None:
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    assert main(["recommend", "--model_name_or_path", str(tmp_path), "--history", "gone"]) == 2
    printed = capsys.readouterr().err.splitlines()[-1]
    assert printed.startswith("tsrec recommend: Item 'gone' is not among the 8 items")
