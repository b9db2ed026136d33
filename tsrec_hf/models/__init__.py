"""The Hub island: everything a checkpoint needs to be loaded and to recommend. Imports no other room."""

from importlib import import_module
from typing import TYPE_CHECKING

from .configuration_tsrec import TSRecConfig
from .indexing_tsrec import SIDIndex
from .prompting_tsrec import PROMPT_VERSION, PromptBuilder
from .tokenization_tsrec import TSRecTokenizer
from .trie_tsrec import SIDTrie


if TYPE_CHECKING:
    from .generation_tsrec import SIDSearch, TreeBeams, tsrec_generate
    from .modeling_tsrec import Recommendation, TSRecForCausalLM
    from .sa_init import PUBLISHED_SA_INIT, SAInitReport, initialize_sid_embeddings

# On first use: they pull in transformers' modeling code, a second and a half that reading a tokenizer does not need.
_MODULE_OF = {
    "Recommendation": "modeling_tsrec",
    "TSRecForCausalLM": "modeling_tsrec",
    "SIDSearch": "generation_tsrec",
    "TreeBeams": "generation_tsrec",
    "tsrec_generate": "generation_tsrec",
    "PUBLISHED_SA_INIT": "sa_init",
    "SAInitReport": "sa_init",
    "initialize_sid_embeddings": "sa_init",
}

__all__ = [
    "PROMPT_VERSION",
    "PUBLISHED_SA_INIT",
    "PromptBuilder",
    "Recommendation",
    "SAInitReport",
    "SIDIndex",
    "SIDSearch",
    "SIDTrie",
    "TSRecConfig",
    "TSRecForCausalLM",
    "TSRecTokenizer",
    "TreeBeams",
    "initialize_sid_embeddings",
    "tsrec_generate",
]


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
