"""The Hub island: everything a checkpoint needs to be loaded and to recommend. Imports no other room."""

from importlib import import_module
from typing import TYPE_CHECKING

from .configuration_tsrec import TSRecConfig
from .given_priors_tsrec import MixedPrior
from .indexing_tsrec import SIDIndex
from .item_prior_tsrec import ItemPrior, PriorWeights
from .plain_text_tsrec import PlainText
from .priors_tsrec import NextItemPrior, PopularityPrior, SimilarityPrior
from .prompting_tsrec import PROMPT_VERSION, PromptBuilder
from .tokenization_tsrec import TSRecTokenizer
from .trie_tsrec import SIDTrie


if TYPE_CHECKING:
    from .generate_tsrec import tsrec_generate
    from .modeling_tsrec import TSRecForCausalLM
    from .recommending_tsrec import Recommendation
    from .sa_init import PUBLISHED_SA_INIT, SAInitReport, initialize_sid_embeddings
    from .search_tsrec import SIDSearch, TreeBeams
    from .session_tsrec import SearchSession
    from .tracing_tsrec import Prefix, SearchStep, SearchTrace, trace_search

# On first use: they pull in transformers' modeling code, a second and a half that reading a tokenizer does not need.
_MODULE_OF = {
    "Recommendation": "recommending_tsrec",
    "TSRecForCausalLM": "modeling_tsrec",
    "SIDSearch": "search_tsrec",
    "SearchSession": "session_tsrec",
    "TreeBeams": "search_tsrec",
    "tsrec_generate": "generate_tsrec",
    "PUBLISHED_SA_INIT": "sa_init",
    "Prefix": "tracing_tsrec",
    "SearchStep": "tracing_tsrec",
    "SearchTrace": "tracing_tsrec",
    "trace_search": "tracing_tsrec",
    "SAInitReport": "sa_init",
    "initialize_sid_embeddings": "sa_init",
}

__all__ = [
    "PROMPT_VERSION",
    "PUBLISHED_SA_INIT",
    "ItemPrior",
    "MixedPrior",
    "NextItemPrior",
    "PlainText",
    "PopularityPrior",
    "Prefix",
    "PriorWeights",
    "PromptBuilder",
    "Recommendation",
    "SAInitReport",
    "SIDIndex",
    "SIDSearch",
    "SIDTrie",
    "SearchSession",
    "SearchStep",
    "SearchTrace",
    "SimilarityPrior",
    "TSRecConfig",
    "TSRecForCausalLM",
    "TSRecTokenizer",
    "TreeBeams",
    "initialize_sid_embeddings",
    "trace_search",
    "tsrec_generate",
]


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
