"""The command lines of `benchmarks/README.md` are ones that the scripts understand; `generate`'s beams are ours."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch
from transformers import HfArgumentParser

from tsrec_hf.models import PromptBuilder, SearchSession


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SIBLINGS = (
    "common",
    "cornac_models",
    "generate_beams",
    "sa_init_study",
    "sid_models",
    "small_models",
)
DATA_DIRS = (
    "amazon/Industrial_and_Scientific",
    "beauty",
    "ml-100k",
    "scientific/Scientific.index.rqvae_native.json",
)
TEXT = (BENCHMARKS / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
LINES = re.findall(r"^(?:OMP_NUM_THREADS=1 )?python (benchmarks/\w+\.py[^\n#]*)", TEXT, flags=re.MULTILINE)


@pytest.fixture
def siblings(monkeypatch):
    """Scripts find the files beside them, as if they were run by their path, and leave no module behind."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in SIBLINGS:
        sys.modules.pop(name, None)


def test_every_script_stands_in_the_readme() -> None:
    scripts = {path.name for path in BENCHMARKS.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")}
    assert {Path(line.split()[0]).name for line in LINES} == scripts and len(scripts) == 23


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_the_readme_is_understood(line: str, siblings, monkeypatch) -> None:
    import common

    called = []
    monkeypatch.setattr(common, "run_script", lambda main, arguments_class: called.append(arguments_class))
    script, *options = shlex.split(line.replace("...", "amazon/Industrial_and_Scientific"))
    runpy.run_path(str(BENCHMARKS.parent / script), run_name="__main__")
    [arguments_class] = called
    for extra in ([], ["--quick"]):
        [args] = HfArgumentParser(arguments_class).parse_args_into_dataclasses([*options, *extra])
        assert args.quick == bool(extra)
        if "--data_dir" in options:
            given = [args.data_dir] if isinstance(args.data_dir, str) else args.data_dir
            assert given and set(given) <= set(DATA_DIRS)


def test_generate_finds_the_beams_of_the_tree_search(model, tokenizer, siblings) -> None:
    from generate_beams import GenerateBeams

    prompts = [PromptBuilder(tokenizer).sequence_prompt_ids(history) for history in (["hammer"], ["apple", "pear"])]
    session = SearchSession(model, tokenizer, "vocabulary", prefix_ids=())
    beams = session.search.beam(*session.pad(prompts), 4)
    sids, scores = GenerateBeams(tokenizer)(model.backbone, prompts, 4)
    assert torch.equal(sids, session.tokens_of(beams.leaves))
    torch.testing.assert_close(scores, beams.scores, rtol=1e-4, atol=1e-4)
