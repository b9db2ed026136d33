"""What commands show: a header, one bar a stage, one table at the end, the path of what was written; nothing twice."""

import logging
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from transformers.utils import logging as transformers_logging

from tsrec_hf.cli import main
from tsrec_hf.recipes.screen import quiet


ROOT = Path(__file__).parents[2]
KINDS, THINGS = "red green hard sharp steel".split(), "hammer nail screw saw apple pear bread cheese".split()
TRAINING = (
    "--max_steps 2 --report_to none --use_cpu --bf16 false --logging_steps 1 --eval_strategy steps --eval_steps 1"
)
SFT = f"sft --data_dir data --model_name_or_path backbone --output_dir sft {TRAINING}"
TUNE = f"tune --data_dir data --model_name_or_path sft --output_dir grpo {TRAINING} --num_generations 4"
EVALUATE = "evaluate --data_dir data --model_name_or_path sft --num_beams 7 --output_file figures.json"
# What libraries say by themselves: bars without a name, logs as dictionaries, remarks.
NOISE = (
    r"^ *\d+%\||^\{'|Warning|\[transformers\]|Loading weights|Generating|Writing model|Flattening|parquet|^Level \d"
)
BAR = r"^([\w ]+): +\d+%\|.*$"


@pytest.fixture
def shop(tmp_path, backbone_dir, save_backbone, datasets_cache, monkeypatch):
    """A folder with two tables, an encoder and a backbone, in which the commands run."""
    modules = pytest.importorskip(
        "sentence_transformers", reason="needs the extra `sids`"
    ).sentence_transformer.modules
    pytest.importorskip("faiss", reason="needs the extra `sids`")
    pytest.importorskip("sklearn", reason="needs the extra `keywords`")
    from sentence_transformers import SentenceTransformer

    monkeypatch.chdir(tmp_path)
    for name, value in {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    titles = [f"{kind} {thing}" for kind in KINDS for thing in THINGS]
    draw = np.random.default_rng(0)
    rows = [
        (user, item, 1.7e9 + 86400 * day + user)
        for user in range(30)
        for day, item in enumerate(draw.choice(len(titles), size=8, replace=False))
    ]
    SentenceTransformer(modules=[modules.BoW([*KINDS, *THINGS])], device="cpu").save("encoder")
    save_backbone("backbone")
    pd.DataFrame({"item_id": range(len(titles)), "title": titles}).to_csv("items.csv", index=False)
    pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).to_csv("log.csv", index=False)
    return tmp_path


@pytest.fixture
def show(capfd, monkeypatch):
    """Runs a command and returns its lines and its bars, as a terminal would show them."""

    def run(line: str) -> tuple[list[str], list[str]]:
        # As in a process of its own, where the command sets logging up.
        monkeypatch.setattr(logging.getLogger(), "handlers", [])
        capfd.readouterr()
        assert main(line.split()) == 0
        printed = capfd.readouterr()
        return read(printed.err + printed.out)

    return run


def read(text: str) -> tuple[list[str], list[str]]:
    """Lines and names of finished bars; raises for what should not be there."""
    lines = [line.rstrip() for line in text.replace("\r", "\n").splitlines() if line.strip("\x1b[A \n")]
    noise = [line for line in lines if re.search(NOISE, line)]
    assert not noise, noise
    bars = [match[1] for line in lines if (match := re.match(BAR, line)) and "100%" in line]
    return [line for line in lines if not re.match(BAR, line)], list(dict.fromkeys(bars))


def tables(lines: list[str]) -> int:
    return sum(line.startswith("| --- ") for line in lines)


def test_every_command_says_as_much_as_is_needed(shop, show) -> None:
    lines, bars = show("build --items items.csv --interactions log.csv --encoder encoder --output_dir data")
    assert bars == ["Embedding title", "Embedding description"]
    # What was read and dropped is the header, the report of the SIDs the table.
    assert tables(lines) == 2 and lines[0].startswith("| stage ") and lines[-1].startswith("data: Recommendation")

    lines, bars = show("describe --data_dir data --output_file data/description_keywords.json")
    assert lines[0].startswith("SIDIndex(40 items") and lines[0].endswith("described by keywords") and not bars
    assert len(lines) == 8 and lines[-1].startswith("data/description_keywords.json: ")

    lines, bars = show(SFT)
    # With the order of what is printed and of what is logged left open.
    for start in ("RecommendationDataset(", "seed: 42", "SID initialisation: ", "Rows per task", "Trainable param"):
        assert sum(line.startswith(start) for line in lines) == 1, start
    assert (
        sorted(bars) == ["Evaluating", "Training"]
        and tables(lines) == 1
        and lines[-1].endswith("plots and metrics: sft")
    )

    lines, bars = show(TUNE)
    assert "rewards: 1 exact_match, 1 ranking" in lines and "seed: 42" in lines
    assert (
        sorted(bars) == ["Evaluating", "Training"]
        and tables(lines) == 1
        and lines[-1].endswith("plots and metrics: grpo")
    )

    lines, bars = show("prior --data_dir data --model_name_or_path sft")
    assert lines[1] == "21 rows of valid, for sft" and bars == ["Recommending"]
    assert tables(lines) == 1 and lines[-1] == "Saved to sft."

    lines, bars = show(EVALUATE)
    assert sum(line.startswith("Decoding: model=sft, dataset=data, split=test") for line in lines) == 1
    assert bars == ["Recommending"] and tables(lines) == 1 and lines[-1] == "Written to figures.json"
    assert sum("7 beams find at most 7 SIDs" in line for line in lines) == 1

    lines, bars = show("recommend --model_name_or_path sft --history 1 2 --num_beams 10")
    assert lines[0].startswith("sft, SIDIndex(40 items") and lines[0].endswith("after: red nail; red screw")
    assert len(lines) == 11 and not bars


@pytest.mark.slow
def test_train_says_a_line_a_stage(shop, show) -> None:
    lines, bars = show(
        "train --items items.csv --interactions log.csv --encoder encoder --model_name_or_path backbone "
        "--minutes 0 --num_test_rows 10 --output_dir shop"
    )
    stages = [line.split("] ")[1].split(":")[0] for line in lines if line.startswith("[")]
    assert stages == ["Data", "Semantic IDs", "Training", "Trained", "Prior", "Evaluation", "Done"]
    assert "Training" in bars and tables(lines) == 1 and "next: tsrec recommend" in lines[-1]
    others = [line for line in lines if not line.startswith(("[", "|")) and " minus " not in line]
    assert not others


def test_what_was_turned_off_is_on_again() -> None:
    level, verbosity = logging.getLogger("tsrec_hf").level, transformers_logging.get_verbosity()
    with quiet(logging.WARNING):
        assert not transformers_logging.is_progress_bar_enabled()
        assert logging.getLogger("tsrec_hf").level == logging.WARNING
    assert transformers_logging.is_progress_bar_enabled() and transformers_logging.get_verbosity() == verbosity
    assert logging.getLogger("tsrec_hf").level == level


@pytest.mark.slow
def test_two_processes_say_nothing_twice(shop, show) -> None:
    for line in (
        "build --items items.csv --interactions log.csv --encoder encoder --output_dir data",
        "describe --data_dir data --output_file data/description_keywords.json",
        SFT,
    ):
        show(line)
    config = str(ROOT / "examples" / "accelerate_configs" / "two_cpus.yaml")
    for line in (SFT, TUNE, EVALUATE):
        run = subprocess.run(
            ["accelerate", "launch", "--config_file", config, "-m", "tsrec_hf", *line.split()],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert run.returncode == 0, run.stderr[-3000:]
        lines, _ = read(run.stdout + run.stderr)
        twice = {line: count for line, count in Counter(lines).items() if count > 1}
        assert not twice, twice
