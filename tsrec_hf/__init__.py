"""
TS-Rec (arXiv 2602.22632) for the Hugging Face ecosystem: recommenders that write the semantic ID of the next item.
"""

import logging
import sys
from collections.abc import Callable, Collection
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from types import ModuleType
from typing import TYPE_CHECKING


__version__ = "0.1.0"

# Names are imported on first use: reading a tokenizer must not pull in TRL, PEFT or datasets.
_ROOM_OF = {
    "items": [
        "InteractionLog",
        "LogSummary",
        "RecommendationDataset",
        "Showcase",
        "TableFile",
        "chronological_split",
        "clean_text",
        "k_core",
        "leave_one_out_split",
        "load_amazon",
        "load_lcrec",
        "load_minionerec",
        "load_published",
        "load_recbole",
        "load_sequences",
        "load_table",
        "open_dataset",
        "save_minionerec",
        "tidy",
    ],
    "sids": [
        "Quantizer",
        "RQVAE",
        "ResidualKMeans",
        "SIDReport",
        "embed_interactions",
        "embed_items",
        "fill_from_neighbours",
        "join_collaborative",
        "resolve_collisions",
        "sid_report",
    ],
    "semantics": [
        "InferenceClientTeacher",
        "KeywordTeacher",
        "TokenDescription",
        "TokenSemantics",
        "TransformersTeacher",
        "describe_tokens",
        "list_recommendations",
    ],
    "models": [
        "ItemPrior",
        "NextItemPrior",
        "PUBLISHED_SA_INIT",
        "PopularityPrior",
        "PromptBuilder",
        "Recommendation",
        "SAInitReport",
        "SIDIndex",
        "SIDTrie",
        "SimilarityPrior",
        "TSRecConfig",
        "TSRecForCausalLM",
        "TSRecTokenizer",
        "initialize_sid_embeddings",
        "trace_search",
        "tsrec_generate",
    ],
    # Not by way of its room: it pulls in transformers' pipelines, a second and a half.
    "models.pipeline_tsrec": ["RecommendationPipeline"],
    "data": [
        "DataCollatorForTSAlign",
        "build_alignment_rows",
        "build_grpo_rows",
        "build_history_title_rows",
        "build_sequence_rows",
        "build_sft_mixture",
        "build_title_rows",
    ],
    "evaluation": [
        "NextItemRecommender",
        "PopularityRecommender",
        "RecommendationEvaluator",
        "baseline_results",
        "compare_with_baselines",
        "fit_prior",
        "hit_rate_at_k",
        "metrics_table",
        "ndcg_at_k",
        "paired_bootstrap",
        "recommend_distributed",
        "results_table",
        "target_ranks",
    ],
    "rewards": [
        "RewardOnCodes",
        "collaborative_reward",
        "description_similarities",
        "exact_match_reward",
        "prefix_reward",
        "ranking_reward",
        "semantic_reward",
    ],
    "hub": [
        "build_model_card",
        "export_backbone",
        "export_custom_generate",
        "load_recommender",
        "minilm_from_wheel",
        "movielens_from_wheel",
        "plot_run",
        "save_first_layers",
        "smollm2_from_wheel",
    ],
    "serving": [
        "EmbedBatch",
        "EncodeBatch",
        "RecommendBatch",
        "RequestBatcher",
        "SIDConstraint",
        "recommend_vllm",
    ],
    "trainers": [
        "ProgressBarCallback",
        "RunClock",
        "TSRecGRPOConfig",
        "TSRecGRPOTrainer",
        "TSRecSFTConfig",
        "TSRecSFTTrainer",
        "TimeLimitCallback",
        "choose_num_threads",
        "lora_config",
    ],
    "recipes": ["Recommender"],
}
_ROOM_OF_NAME = {name: room for room, names in _ROOM_OF.items() for name in names}

__all__ = ["__version__", *sorted(_ROOM_OF_NAME)]

if TYPE_CHECKING:
    from .data import *
    from .evaluation import *
    from .hub import *
    from .items import *
    from .models import *
    from .models.pipeline_tsrec import RecommendationPipeline
    from .recipes import *
    from .rewards import *
    from .semantics import *
    from .serving import *
    from .sids import *
    from .trainers import *


def __getattr__(name: str):
    if name not in _ROOM_OF_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_ROOM_OF_NAME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__


def _register_auto_classes() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from .models import TSRecConfig, TSRecTokenizer

    AutoConfig.register(TSRecConfig.model_type, TSRecConfig)
    AutoTokenizer.register(TSRecConfig, fast_tokenizer_class=TSRecTokenizer)
    AutoModelForCausalLM.register(TSRecConfig, _ModelOnFirstUse)
    TSRecConfig.register_for_auto_class()
    TSRecTokenizer.register_for_auto_class()


class _ModelOnFirstUse:
    """
    Stands for [`TSRecForCausalLM`] among transformers' Auto classes until the model's module is imported, which puts
    the model itself there: transformers' modeling code takes a second and a half to import.
    """

    @staticmethod
    def from_pretrained(*args, **kwargs):
        return __getattr__("TSRecForCausalLM").from_pretrained(*args, **kwargs)

    @staticmethod
    def _from_config(*args, **kwargs):
        return __getattr__("TSRecForCausalLM")._from_config(*args, **kwargs)


class _WhenImported(MetaPathFinder):
    """
    Calls a function as soon as one of some modules has been imported, and none of them is still under way.

    So our classes are registered where transformers looks for them, and `import tsrec_hf` imports neither transformers
    nor torch, which take seconds that the help of a command does not need.
    """

    def __init__(self, names: Collection[str], function: Callable[[], object]) -> None:
        self.names, self.function = frozenset(names), function
        self._under_way, self._called = 0, False
        if any(name in sys.modules for name in self.names):
            self._call()
        else:
            sys.meta_path.insert(0, self)

    def _call(self) -> None:
        if not self._called:
            self._called = True
            self.function()

    def find_spec(self, fullname, path=None, target=None):
        if self._called or fullname not in self.names:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_call(module: ModuleType) -> None:
            self._under_way += 1
            try:
                execute(module)
            finally:
                self._under_way -= 1
            if not self._under_way:
                self._call()

        spec.loader.exec_module = execute_and_call  # type: ignore[method-assign]
        return spec


def _without_kernel_news(record: logging.LogRecord) -> bool:
    """
    Whether a record of bitsandbytes is worth showing: PEFT imports it whether or not anything is quantised, and then
    it warns of a CPU kernel for 4 bits that could not be downloaded. It computes without that kernel.
    """
    return not record.getMessage().startswith("Failed to load CPU gemm_4bit_forward")


logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_without_kernel_news)

_AUTO = "transformers.models.auto"
# Our own room is among them: it imports theirs, and its classes are there only when it ends.
_WhenImported(
    [*(f"{_AUTO}.{kind}_auto" for kind in ("configuration", "tokenization", "modeling")), f"{__name__}.models"],
    _register_auto_classes,
)
# The pipeline registers itself; it may be what imports transformers' pipelines, and then this does nothing.
_WhenImported(["transformers.pipelines"], lambda: import_module(f"{__name__}.models.pipeline_tsrec"))
