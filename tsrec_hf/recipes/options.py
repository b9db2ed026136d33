"""
Options of the commands and of the example scripts; nothing here imports what the commands need to run.

A class is a group of a command's help, and its docstring's first line the group's title.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .raw_data import FOLDERS, RawDataArguments


SEMANTICS_FILE = "description_keywords.json"
MINILM_ID = "sentence-transformers/all-MiniLM-L6-v2"
QUANTIZERS = ("residual_kmeans", "rqvae")
TEACHERS = ("keywords", "transformers", "inference")
TASKS = ("sequence", "title", "history_title", "alignment")
REWARDS = ("exact_match", "ranking", "prefix", "semantic", "collaborative")


@dataclass(kw_only=True)
class BuildOptions(RawDataArguments):
    """What to read, how to embed it, and how to make codes of it."""

    output_dir: str = field(metadata={"help": "Folder to write to, the `--data_dir` of the other commands."})
    encoder: str = field(
        default=MINILM_ID,
        metadata={"help": "Sentence-transformers model of the texts."},
    )
    fields: list[str] = field(
        default_factory=lambda: ["title=1", "description=0.5"],
        metadata={"help": "Columns of text and their weights; 'none' for images alone."},
    )
    image_column: str | None = field(
        default=None, metadata={"help": "Column of images, or of their file names beside the file of items."}
    )
    image_encoder: str | None = field(default=None, metadata={"help": "CLIP-type model; default: `encoder`."})
    image_weight: float = field(default=1.0, metadata={"help": "Image weight relative to text."})
    batch_size: int = field(default=32, metadata={"help": "Texts or images embedded together."})
    cache_dir: str | None = field(default=None, metadata={"help": "Folder of vectors; default: in `output_dir`."})
    quantizer: str = field(default="residual_kmeans", metadata={"help": f"One of {', '.join(QUANTIZERS)}."})
    level_sizes: list[int] | None = field(
        default=None, metadata={"help": "Codes at each level; default: three levels by the number of items."}
    )
    balanced: bool | None = field(
        default=None, metadata={"help": "Residual k-means: use all codes alike; default: yes, 'false' as published."}
    )
    collaborative_weight: float = field(
        default=0.0, metadata={"help": "Weight of what training users took together, relative to content; 0: none."}
    )
    collisions: str = field(
        default="reassign", metadata={"help": "Items of one SID: 'reassign', 'sinkhorn', 'suffix' or 'keep'."}
    )
    extend_dir: str | None = field(
        default=None, metadata={"help": "Folder of an earlier run: its quantiser is used, its items keep their SIDs."}
    )
    export_dir: str | None = field(
        default=None, metadata={"help": "Another folder, for a copy of the data set in MiniOneRec's layout."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the quantiser."})

    def __post_init__(self):
        super().__post_init__()
        if self.quantizer not in QUANTIZERS:
            raise ValueError(f"Expected `quantizer` among {list(QUANTIZERS)}, but found {self.quantizer!r}.")
        if self.balanced and self.quantizer != "residual_kmeans":
            raise ValueError("`--balanced` is an option of residual k-means. Leave one of the two out.")


@dataclass
class DescribeOptions:
    """What to describe, and who does it."""

    data_dir: str | None = field(default=None, metadata={"help": "Folder of a data set, such as `tsrec build` makes."})
    items_file: str | None = field(
        default=None, metadata={"help": "Instead of `data_dir`: items as .csv, .jsonl or .parquet."}
    )
    sid_index: str | None = field(
        default=None, metadata={"help": "With `items_file`: folder of a saved SIDIndex, or an index.json."}
    )
    embeddings_file: str | None = field(
        default=None, metadata={"help": "Embeddings as .npy, a row an item of the index: typical items go first."}
    )
    earlier_file: str | None = field(
        default=None, metadata={"help": "Descriptions of the catalogue before it grew; they stay as they are."}
    )
    output_file: str | None = field(
        default=None,
        metadata={"help": f"Where to write; default: {SEMANTICS_FILE} in `data_dir`, where other commands read it."},
    )
    teacher: str = field(default="keywords", metadata={"help": f"One of {', '.join(TEACHERS)}."})
    model_name_or_path: str | None = field(default=None, metadata={"help": "The teacher's model."})
    gguf_file: str | None = field(default=None, metadata={"help": "File in `model_name_or_path`, for GGUF models."})
    dtype: str = field(default="auto", metadata={"help": "Type of a local model's weights."})
    device_map: str | None = field(default=None, metadata={"help": "Where a local model goes, such as 'auto'."})
    batch_size: int = field(default=8, metadata={"help": "Conversations generated together by a local model."})
    base_url: str | None = field(default=None, metadata={"help": "OpenAI-compatible server."})
    provider: str | None = field(default=None, metadata={"help": "Inference provider of the Hub."})
    concurrency: int = field(default=8, metadata={"help": "Most requests under way at once."})
    timeout: float = field(default=120.0, metadata={"help": "Seconds of silence after which a try is given up."})
    max_new_tokens: int = field(default=512, metadata={"help": "Tokens after which an answer is cut off."})
    temperature: float = field(default=0.0, metadata={"help": "Temperature of sampling; 0 for none."})
    repetition_penalty: float = field(default=1.0, metadata={"help": "Above 1 for small local models."})
    sample_tokens: int = field(default=1500, metadata={"help": "Tokens of sampled items in a prompt."})
    sample_items: int = field(default=40, metadata={"help": "Most sampled items in a prompt."})
    max_retries: int = field(default=2, metadata={"help": "How often a bad answer is sent back."})
    cache_file: str | None = field(
        default=None, metadata={"help": "Answers, a JSON line each; default: beside `output_file`."}
    )

    def __post_init__(self):
        if self.teacher not in TEACHERS:
            raise ValueError(f"Expected `teacher` among {TEACHERS}, but found {self.teacher!r}.")
        if self.teacher != "keywords" and self.model_name_or_path is None:
            raise ValueError(f"Expected `--model_name_or_path` for the teacher {self.teacher!r}, but found none.")
        if (self.data_dir is None) == (self.items_file is None) or (self.items_file is None) != (
            self.sid_index is None
        ):
            raise ValueError("Expected either `--data_dir`, or `--items_file` with `--sid_index`.")
        self.output_file = self.output_file or self._default_output_file()
        self.cache_file = self.cache_file or str(Path(self.output_file).with_suffix(".answers.jsonl"))

    def _default_output_file(self) -> str:
        """Beside the data, unless that would replace descriptions which nobody has named."""
        in_folder = self.data_dir is not None and Path(self.data_dir).is_dir()
        output = Path(self.data_dir if in_folder else "outputs", SEMANTICS_FILE)  # type: ignore[arg-type]
        named = self.earlier_file is not None and Path(self.earlier_file).resolve() == output.resolve()
        is_read = self.data_dir is None or Path(self.data_dir).exists()  # else its reader tells
        if is_read and output.exists() and not named:
            raise ValueError(
                f"Expected no descriptions yet at {output}, but found some. Pass `--output_file {output}` to replace "
                "them, or another place."
            )
        return str(output)


@dataclass
class FineTuneOptions:
    """What to train on, and how the SID tokens start."""

    data_dir: str = field(metadata={"help": "Folder of `tsrec build`, or one in MiniOneRec's layout."})
    semantics_file: str = field(
        default="",
        metadata={"help": f"Keywords of the SID tokens; default: {SEMANTICS_FILE} in `data_dir`; or 'none'."},
    )
    tasks: list[str] = field(
        default_factory=lambda: ["sequence"],
        metadata={"help": "'all', or some of 'sequence', 'title', 'history_title', 'alignment'."},
    )
    mixture_weights: dict | str | None = field(
        default=None,
        metadata={"help": """How often each task's rows occur, as JSON: '{"history_title": 0.1}'; 1 where absent."""},
    )
    grounding_epochs: float = field(
        default=0.0,
        metadata={"help": "Passes over TS-Align that train the SID rows alone, before everything is trained."},
    )
    grounding_learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate of that stage."})
    existing_tokens: Literal["error", "keep"] = field(
        default="error",
        metadata={"help": "'keep' takes SID tokens over that the backbone has already, with their rows."},
    )
    gguf_file: str | None = field(default=None, metadata={"help": "File in `model_name_or_path`, for GGUF backbones."})
    sequence_mode: str = field(default="session", metadata={"help": "'session' (one row a user) or 'window'."})
    targets_per_stretch: int | None = field(
        default=None,
        metadata={"help": "Targets in each further session row of a long history; 1: each sees its whole history."},
    )
    pooling: str = field(default="idf", metadata={"help": "SA-Init: 'idf', or 'mean' as published."})
    center: bool = field(default=True, metadata={"help": "SA-Init: subtract the mean row; published: no."})
    norm: str = field(
        default="match_resize",
        metadata={"help": "SA-Init: 'match_resize', 'vocab_mean' as published, 'none', or a number."},
    )
    levels: int | None = field(default=None, metadata={"help": "SA-Init: levels to initialise; default: all."})
    shuffle_seed: int | None = field(default=None, metadata={"help": "SA-Init: control with permuted keywords."})
    sid_method: str | None = field(default=None, metadata={"help": "How the SIDs were made, for the model card."})
    early_stopping_patience: int | None = field(default=None, metadata={"help": "Evaluations without progress."})

    def __post_init__(self):
        self.tasks = list(TASKS) if self.tasks == ["all"] else self.tasks
        if isinstance(self.mixture_weights, str):
            self.mixture_weights = json.loads(self.mixture_weights)

    def sa_init_kwargs(self) -> dict:
        known = {"none": None, "vocab_mean": "vocab_mean", "match_resize": "match_resize"}
        norm = known[self.norm] if self.norm in known else float(self.norm)
        return {
            "norm": norm,
            **{name: getattr(self, name) for name in ("pooling", "center", "levels", "shuffle_seed")},
        }


@dataclass
class TuneOptions:
    """What to train on, and what is rewarded."""

    data_dir: str = field(metadata={"help": "Folder of `tsrec build`, or one in MiniOneRec's layout."})
    semantics_file: str | None = field(
        default=None,
        metadata={
            "help": "Descriptions of the SID tokens, for the reward 'semantic'; default: description_keywords.json in "
            "`data_dir`."
        },
    )
    rewards: list[str] = field(
        default_factory=lambda: ["exact_match", "ranking"],
        metadata={"help": f"Some of {', '.join(REWARDS)}; weighed by `reward_weights`."},
    )
    level_weights: list[float] | None = field(
        default=None, metadata={"help": "Weights of the levels in 'prefix' and 'semantic'; default: equal ones."}
    )


@dataclass
class EvaluateOptions:
    """Checkpoint, data and settings of the search."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of the recommender, or of its adapter."})
    data_dir: str = field(metadata={"help": "Folder of `tsrec build`, or one in MiniOneRec's layout."})
    split: Literal["train", "valid", "test"] = field(default="test", metadata={"help": "What to evaluate on."})
    num_rows: int | None = field(default=None, metadata={"help": "Rows to draw from the split; default: all."})
    seed: int = field(default=0, metadata={"help": "Seed of that draw."})
    transfer: bool = field(
        default=False, metadata={"help": "Whether the data's catalogue is another one than the checkpoint's."}
    )
    num_beams: int = field(default=50, metadata={"help": "Beams of the search."})
    search: Literal["beam", "exact"] = field(
        default="beam", metadata={"help": "'exact' finds the true best of the whole catalogue."}
    )
    scoring: Literal["vocabulary", "catalogue"] = field(
        default="catalogue", metadata={"help": "'vocabulary' sums over all tokens, as `generate` does."}
    )
    batch_size: int = field(default=16, metadata={"help": "Users searched together."})
    revision: str | None = field(default=None, metadata={"help": "Commit, branch or tag of a Hub id."})
    dtype: str = field(default="float32", metadata={"help": "Type of the weights: float32 or bfloat16."})
    output_file: str | None = field(
        default=None,
        metadata={"help": "JSON file for all figures, which `build_model_card(evaluations=[...])` takes."},
    )
    update_card: bool = field(
        default=False, metadata={"help": "Whether to write the figures into the model card of a local checkpoint."}
    )


@dataclass
class PriorOptions:
    """Which checkpoint, which data, which priors, and how many rows to look at."""

    model_name_or_path: str = field(metadata={"help": "Folder of the recommender."})
    data_dir: str = field(metadata={"help": "Folder of the data set that it was trained on, or one grown since."})
    output_dir: str | None = field(
        default=None, metadata={"help": "Folder to save the tokenizer with its prior to; default: the checkpoint's."}
    )
    similarity: bool | None = field(
        default=None,
        metadata={"help": "Whether to weigh in the similarity of items; default: where there are embeddings of them."},
    )
    encoder: str | None = field(
        default=None, metadata={"help": "Encoder of the titles, where `data_dir` has no embeddings of the items."}
    )
    num_rows: int = field(default=1200, metadata={"help": "Validation rows to choose on."})
    num_candidates: int = field(
        default=100, metadata={"help": "Best items of model and priors per row that are ranked."}
    )
    batch_size: int = field(default=16, metadata={"help": "Users searched together."})
    revision: str | None = field(default=None, metadata={"help": "Commit, branch or tag of a Hub id."})
    dtype: str = field(default="float32", metadata={"help": "Type of the weights: float32 or bfloat16."})


@dataclass
class RecommendOptions:
    """Checkpoint, history and settings of the search."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of the recommender."})
    history: list[str] = field(metadata={"help": "Ids of the items in the history, oldest first."})
    top_k: int = field(default=10, metadata={"help": "Number of recommendations."})
    num_beams: int = field(default=50, metadata={"help": "Beams of the search."})
    revision: str | None = field(default=None, metadata={"help": "Commit, branch or tag of a Hub id."})
    exclude_history: bool = field(default=True, metadata={"help": "Whether to leave out the items of the history."})


@dataclass
class DemoOptions:
    """What to start from, and how much time there is."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "Backbone; default: SmolLM2-135M's wheel."})
    num_layers: int | None = field(default=None, metadata={"help": "Layers to keep; default: all, or 4 of SmolLM2."})
    encoder: str | None = field(default=None, metadata={"help": "Encoder of texts; default: MiniLM's wheel."})
    total_seconds: float = field(default=560.0, metadata={"help": "Time for everything; training takes what is left."})
    num_valid_rows: int = field(default=600, metadata={"help": "Rows to choose the fusion on; fewer without time."})
    num_test_rows: int = field(default=1500, metadata={"help": "Rows to test on; fewer without time."})
    output_dir: str = field(default="outputs/demo", metadata={"help": "Folder of checkpoint, metrics, report, plots."})
    seed: int = field(default=0, metadata={"help": "Seed of clusters, samples and training."})


@dataclass
class AlignOptions(FineTuneOptions):
    """What to train on, and how the tokens of semantic IDs learn what they mean."""

    tasks: list[str] = field(
        default_factory=lambda: ["all"],
        metadata={"help": "'all', or some of 'sequence', 'title', 'history_title', 'alignment'."},
    )
    grounding_epochs: float = field(
        default=2.0,
        metadata={"help": "Passes over TS-Align that train the SID rows alone, before everything is trained."},
    )


@dataclass
class UsualTrainerOptions:
    """Training, the usual ones; TRL's and transformers' others: --help-all."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id to start from."})
    output_dir: str | None = field(default=None, metadata={"help": "Folder of the checkpoint, metrics and card."})
    num_train_epochs: float = field(default=3.0, metadata={"help": "Passes over the rows."})
    max_steps: int = field(default=-1, metadata={"help": "Steps; above 0 it goes before the passes."})
    learning_rate: float | None = field(default=None, metadata={"help": "Highest learning rate."})
    per_device_train_batch_size: int = field(default=8, metadata={"help": "Rows a step and device."})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Batches a step."})
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "'last' goes on from the newest whole checkpoint."}
    )
    use_peft: bool = field(default=False, metadata={"help": "Train LoRA and the SID rows."})
    freeze_backbone: bool = field(default=False, metadata={"help": "Train the SID rows alone."})
    push_to_hub: bool = field(default=False, metadata={"help": "Send the result to the Hub."})
    seed: int = field(default=42, metadata={"help": "Seed of the run."})


@dataclass(kw_only=True)
class TrainOptions(RawDataArguments):
    """What to make of the tables."""

    output_dir: str = field(
        default="outputs/recommender", metadata={"help": "Folder of the recommender; a second call goes on there."}
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Language model to start from; default: SmolLM2-135M-Instruct."}
    )
    num_layers: int | None = field(
        default=None, metadata={"help": "Layers of it to keep; default: all, or 4 of SmolLM2 on a CPU."}
    )
    encoder: str | None = field(default=None, metadata={"help": f"Encoder of the texts; default: {MINILM_ID}."})
    level_sizes: list[int] | None = field(
        default=None, metadata={"help": "Codes at each level of the SIDs; default: by the number of items."}
    )
    max_history: int | None = field(  # type: ignore[assignment]  # of `RawDataArguments`, which has a number for it
        default=None, metadata={"help": "Longest history of a row; default: by what users took, from 5 to 50."}
    )
    minutes: float = field(
        default=12.0, metadata={"help": "Time for everything; a slow machine trains less. 0: no limit."}
    )
    num_valid_rows: int = field(default=600, metadata={"help": "Rows to choose the prior on; fewer without time."})
    num_test_rows: int = field(default=1500, metadata={"help": "Rows to test on; fewer without time."})
    max_faulty: float = field(
        default=0.01,
        metadata={"help": "Share of faulty rows of a table that is left out with a warning; more is an error."},
    )
    seed: int = field(default=0, metadata={"help": "Seed of codes, samples and training."})
    fresh: bool = field(default=False, metadata={"help": "Do all stages again."})

    def __post_init__(self) -> None:
        super().__post_init__()
        # LC-Rec's folder can hold both too.
        if self.interactions_file is None and self.format not in (*FOLDERS, "lcrec"):
            raise ValueError(
                f"Expected the interactions of the format {self.format!r} as `--interactions`, but found none. Name "
                "their file."
            )
        if not 0 <= self.max_faulty <= 1 or self.minutes < 0:
            raise ValueError(
                f"Expected `--max_faulty` from 0 to 1 and `--minutes` of at least 0, but found {self.max_faulty} and "
                f"{self.minutes}."
            )


@dataclass(kw_only=True)
class DataOptions:
    """Which data, and where to."""

    name: str | None = field(default=None, metadata={"help": "A data set by its name: ml-100k."})
    output_dir: str | None = field(default=None, metadata={"help": "Folder of the tables; default: data/NAME."})
    list: bool = field(default=False, metadata={"help": "Say where data come from, and what reads them."})


@dataclass
class ServeOptions:
    """What to serve, and where."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of the recommender."})
    revision: str | None = field(default=None, metadata={"help": "Commit, branch or tag of a Hub id."})
    host: str = field(default="127.0.0.1", metadata={"help": "Address to listen on; 0.0.0.0 for all."})
    port: int = field(default=8000, metadata={"help": "Port to listen on."})


@dataclass
class ExportOptions:
    """What to export, and where to."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of the recommender."})
    output_dir: str = field(metadata={"help": "Folder to write to."})
    decoder_dir: str | None = field(
        default=None,
        metadata={"help": "Another folder, for the tree decoder as a repository of `generate(custom_generate=...)`."},
    )
    revision: str | None = field(default=None, metadata={"help": "Commit, branch or tag of a Hub id."})


@dataclass
class PushOptions:
    """What to send, and where to."""

    model_name_or_path: str = field(metadata={"help": "Folder of the recommender."})
    repo_id: str = field(metadata={"help": "Repository on the Hub, such as me/tsrec-shop; made if it is absent."})
    private: bool = field(default=False, metadata={"help": "Whether a new repository is private."})
    commit_message: str = field(default="Recommender", metadata={"help": "Message of the commit."})
