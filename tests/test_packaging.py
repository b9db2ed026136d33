"""What a wheel carries, and what importing the package costs in modules."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
WHAT_A_BUILD_READS = ("setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy: a build leaves folders behind, and would take files of an older one along."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "tsrec_hf", source / "tsrec_hf", ignore=shutil.ignore_patterns("__pycache__"))
    for name in WHAT_A_BUILD_READS:
        shutil.copy(ROOT / name, source)
    command = "from setuptools import build_meta; print(build_meta.build_wheel('..'))"
    run = subprocess.run([sys.executable, "-c", command], cwd=source, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    [path] = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_has_every_file(wheel):
    """Code files, the type marker, the island, the metrics and the templates; nothing else."""
    files = {path for path in (ROOT / "tsrec_hf").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == {path.relative_to(ROOT).as_posix() for path in files}
    assert packed >= {
        "tsrec_hf/py.typed",
        "tsrec_hf/models/modeling_tsrec.py",
        "tsrec_hf/evaluation/metrics/hit_rate/hit_rate.py",
        "tsrec_hf/evaluation/metrics/ndcg/ndcg.py",
    }


def test_the_wheel_says_what_it_needs(wheel):
    [name] = [name for name in wheel.namelist() if name.endswith("METADATA")]
    lines = wheel.read(name).decode().splitlines()
    assert "Requires-Python: <3.14,>=3.11" in lines
    needed = [line for line in lines if line.startswith("Requires-Dist: ") and "extra ==" not in line]
    assert not any(name in line for line in needed for name in ("gradio", "faiss", "scikit", "matplotlib"))
    for extra in ("sids", "keywords", "plots", "gguf", "space", "serve", "vllm", "demo", "dev"):
        assert f"Provides-Extra: {extra}" in lines


IMPORTS = """
import sys
import tsrec_hf
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

AutoConfig.from_pretrained({folder!r})
assert type(AutoTokenizer.from_pretrained({folder!r})) is tsrec_hf.TSRecTokenizer
heavy = "trl peft datasets evaluate bitsandbytes transformers.modeling_utils transformers.generation.utils".split()
print(*[name for name in heavy if name in sys.modules])
model = AutoModelForCausalLM.{load}
assert type(model) is tsrec_hf.TSRecForCausalLM is tsrec_hf.models.TSRecForCausalLM
assert AutoModelForCausalLM._model_mapping[tsrec_hf.TSRecConfig] is tsrec_hf.TSRecForCausalLM
"""


@pytest.mark.parametrize(
    "load", ["from_pretrained({folder!r})", "from_config(AutoConfig.from_pretrained({folder!r}))"]
)
def test_modeling_code_is_imported_with_the_first_model(load, model, tokenizer, tmp_path):
    """Reading a configuration and a tokenizer does without it; Auto classes find the model all the same."""
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    folder = str(tmp_path)
    script = IMPORTS.format(folder=folder, load=load.format(folder=folder))
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []
