"""The notebooks: what they keep is small and says nothing of a machine, and they run from top to bottom."""

import json
import re
from pathlib import Path

import pytest


NOTEBOOKS = Path(__file__).parents[2] / "examples" / "notebooks"
NAMES = ("from_tables", "from_the_hub")


def test_there_are_no_others():
    assert sorted(path.stem for path in NOTEBOOKS.iterdir() if path.suffix == ".ipynb") == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_is_small_and_clean(name):
    text = (NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8")
    notebook = json.loads(text)
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    assert outputs, "keep the outputs: run the notebook before it is committed"
    assert len(json.dumps(outputs)) < 20_000
    assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}
    assert not any(cell["metadata"] for cell in notebook["cells"])
    assert not any(output["output_type"] == "error" or output.get("name") == "stderr" for output in outputs)
    assert not re.search(r"/(?:home|root|tmp|work|Users|opt|usr)/", text)


def run(notebook: Path, folder: Path) -> str:
    """Executes a notebook in a folder; all that it printed."""
    nbclient = pytest.importorskip("nbclient", reason="needs the extra `docs`")
    nbformat = pytest.importorskip("nbformat", reason="needs the extra `docs`")
    pytest.importorskip("ipykernel", reason="needs the extra `docs`")
    read = nbformat.read(notebook, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(read, timeout=1200, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in read.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs if output.get("name") == "stdout")


@pytest.mark.slow
def test_both_run_one_after_the_other(save_backbone, tmp_path, monkeypatch):
    """With a tiny backbone, and an encoder that counts the words of the shop's descriptions and titles."""
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs the extra `sids`")
    pytest.importorskip("faiss", reason="needs the extra `sids`")
    text = (NOTEBOOKS / "from_tables.ipynb").read_text(encoding="utf-8")
    [shop] = re.findall(r"HOBBIES = \{(.*?)\}", text, flags=re.DOTALL)
    words = sorted(set(re.findall(r"[a-z]{3,}", shop)))
    encoder = sentence_transformers.SentenceTransformer(
        modules=[sentence_transformers.sentence_transformer.modules.BoW(words)], device="cpu"
    )
    encoder.save(str(tmp_path / "encoder"))
    settings = {
        "BACKBONE": save_backbone(tmp_path / "backbone"),
        "ENCODER": str(tmp_path / "encoder"),
        "CHECKPOINT": "outputs/notebook/checkpoint",
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    printed = run(NOTEBOOKS / "from_tables.ipynb", tmp_path)
    assert "model and prior" in printed and "after ['tent', 'sleeping mat']" in printed
    printed = run(NOTEBOOKS / "from_the_hub.ipynb", tmp_path)
    assert "beams found the true best: True" in printed and "sids.txt" in printed
