"""The Hub island: everything a checkpoint needs to be loaded and to recommend. Imports no other room."""

from .configuration_tsrec import TSRecConfig
from .generation_tsrec import SIDSearch, TreeBeams, tsrec_generate
from .indexing_tsrec import SIDIndex, SIDTrie
from .modeling_tsrec import Recommendation, TSRecForCausalLM
from .prompting_tsrec import PROMPT_VERSION, PromptBuilder
from .sa_init import PUBLISHED_SA_INIT, SAInitReport, initialize_sid_embeddings
from .tokenization_tsrec import TSRecTokenizer


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
