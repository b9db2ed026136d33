"""
Model cards of recommenders, built from the facts of their runs.

Nothing in a card is asked of its author twice: what the configuration and the SID index say is read from them, what a
training run knows it leaves in `config.run_facts`, and what an evaluation found comes as `examples/evaluate.py` writes
it. A fact that nobody knows is left out, not guessed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData, eval_result_entries_to_yaml
from huggingface_hub.utils import HFValidationError, validate_repo_id

from tsrec_hf.models import SIDIndex, TSRecConfig
from tsrec_hf.models.checking_tsrec import checks_types
from tsrec_hf.models.configuration_tsrec import UNNAMED_REPO
from tsrec_hf.models.replacing_tsrec import replaced, write_text

from .markdown import as_cell, as_code, as_line, as_sentence
from .results import (
    RESULTS_END,
    RESULTS_START,
    Evaluation,
    eval_result_entries,
    eval_results,
    results_text,
    with_results,
)


TEMPLATE = Path(__file__).with_name("model_card_template.md")
EVAL_RESULTS_FOLDER = ".eval_results"
FACTS = ("base_model", "dataset", "sid_method", "stages")
SPLITS = ("train", "valid", "test")


@checks_types
def build_model_card(
    config: TSRecConfig,
    sid_index: SIDIndex,
    model_id: str = UNNAMED_REPO,
    name: str | None = None,
    facts: Mapping[str, Any] | None = None,
    evaluations: Sequence[Evaluation] = (),
    picture: str | None = None,
    **card_data,
) -> ModelCard:
    r"""
    Builds the model card of a recommender.

    Args:
        config ([`TSRecConfig`]):
            Configuration of the recommender; its `run_facts` tell how it was trained.
        sid_index ([`SIDIndex`]):
            Its catalogue.
        model_id (`str`, *optional*):
            Hub repository that the snippets load from. Without it they hold a name that `push_to_hub` of the model
            replaces by its own.
        name (`str`, *optional*):
            Heading, and name in the model-index. Defaults to the last part of `model_id`.
        facts (`dict`, *optional*):
            What the configuration does not know, or knows otherwise: `base_model` (Hub id), `dataset` (name and
            counts, from [`dataset_facts`]), `sid_method` (a sentence), `stages` (a list of training stages).
        evaluations (`Sequence[dict]`, *optional*):
            What `examples/evaluate.py --output_file` writes: `settings`, and `results` by method, slice and metric.
            The method `"model"` is the recommender, all others are baselines.
        picture (`str`, *optional*):
            Name of an image file beside the card, from [`plot_run`].
        card_data (*optional*):
            Metadata for [`~huggingface_hub.ModelCardData`]: `license`, `language`, `datasets`, `tags`, ...

    Returns:
        [`~huggingface_hub.ModelCard`]: `str(card)` is the text; `card.save(path)` and `card.push_to_hub(repo_id)`.

    Raises:
        `ValueError`: a fact of unknown name, a base model that is no Hub id, an evaluation without results of the
        model.

    Example:

    ```python
    >>> from tsrec_hf import build_model_card

    >>> metrics = {"num_rows": 8, "hr@10": 0.5, "ndcg@10": 0.25}
    >>> baseline = {"num_rows": 8, "hr@10": 0.25, "ndcg@10": 0.125}
    >>> evaluation = {
    ...     "settings": {"dataset": "toy", "split": "test", "num_beams": 50},
    ...     "results": {"model": {"all": metrics}, "popularity": {"all": baseline}},
    ... }
    >>> card = build_model_card(
    ...     model.config, tokenizer.sid_index, "me/tsrec-toy", evaluations=[evaluation], license="apache-2.0"
    ... )
    >>> [(result.metric_name, result.metric_value) for result in card.data.eval_results]
    [('HR@10, by item', 0.5), ('NDCG@10, by item', 0.25)]
    >>> card.data.eval_results[0].metric_args["baselines"]
    {'popularity': 0.25}
    ```
    """
    facts = {**(config.run_facts or {}), **(facts or {})}
    unknown = sorted(set(facts) - set(FACTS))
    if unknown:
        raise ValueError(f"Expected facts among {list(FACTS)}, but found {unknown}. Metadata are keyword arguments.")
    check_base_model(facts.get("base_model"))
    dataset = facts.get("dataset")
    name = name or (model_id if model_id == UNNAMED_REPO else model_id.split("/")[-1])
    stages = facts.get("stages") or []
    tags = ["tsrec", "recommendation", "semantic-ids", *dict.fromkeys(stage["method"].lower() for stage in stages)]
    card_data = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",  # the Hub's nearest; `custom_pipelines` in config.json names the task
        "language": "en",
        "base_model": facts.get("base_model"),
        **card_data,
    }
    data = ModelCardData(
        **{**card_data, "tags": list(dict.fromkeys([*tags, *(card_data.get("tags") or [])]))},
        model_name=name if evaluations else None,
        eval_results=[result for evaluation in evaluations for result in eval_results(evaluation)] or None,
        ignore_metadata_errors=True,
    )
    shared = sum(map(len, sid_index.collisions().values()))
    # What PEFT writes for adapters: their base, which is a recommender, in the place of the language model's.
    is_adapter = card_data["library_name"] == "peft"
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=as_line(name),
        model_id=model_id,
        base_model=facts.get("base_model"),
        is_adapter=is_adapter,
        adapter_base=card_data["base_model"] if card_data["base_model"] != facts.get("base_model") else None,
        sid_method=as_sentence(facts["sid_method"]) if facts.get("sid_method") else None,
        dataset={**dataset, "name": as_line(dataset["name"]) if dataset.get("name") else None} if dataset else None,
        splits=[split for split in SPLITS if split in (dataset or {})],
        stages=[_told(stage) for stage in stages],
        config=config,
        backbone=config.backbone_config,
        history=list(sid_index.item_ids[:2]),
        num_items=len(sid_index),
        num_sids=sid_index.trie.num_leaves,
        num_shared=shared,
        level_sizes=sid_index.level_sizes,
        fingerprint=sid_index.fingerprint,
        has_titles=sid_index.titles is not None,
        sa_init=_sa_init(config.sid_initialization),
        results="\n\n".join(map(results_text, evaluations)),
        picture=picture,
        results_start=RESULTS_START,
        results_end=RESULTS_END,
    )


@checks_types
def add_evaluation(directory: str | Path, evaluation: Evaluation) -> Path:
    r"""
    Writes an evaluation into the model card of a local checkpoint, in the place of an older one of the same split.

    Where its settings name the data set's repository, `dataset_id`, the figures also go to `.eval_results/`, from
    which the Hub makes leaderboards. The rest of the card stays as it is, with what its author wrote by hand. A
    checkpoint without a card gets one.

    Args:
        directory (`str` or `Path`):
            Folder of the checkpoint.
        evaluation (`dict`):
            As [`build_model_card`] takes them.

    Returns:
        `Path`: The card's file.

    Raises:
        `FileNotFoundError`: no such folder; a checkpoint on the Hub is downloaded first.

    Example:

    ```python
    >>> import tempfile
    >>> from tsrec_hf.hub import add_evaluation

    >>> folder = tempfile.mkdtemp()
    >>> model.save_pretrained(folder), tokenizer.save_pretrained(folder)
    (...)
    >>> results = {"model": {"all": {"num_rows": 8, "hr@10": 0.5, "ndcg@10": 0.25}}}
    >>> path = add_evaluation(folder, {"settings": {"dataset": "toy", "split": "test"}, "results": results})
    >>> "| model, by item | 0.5000 | 0.2500 |" in path.read_text()
    True
    ```
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(
            f"Expected the folder of a checkpoint, whose model card gets the evaluation, but {str(directory)!r} is "
            "none. Download a checkpoint of the Hub with `hf download`, or pass the results to `build_model_card`."
        )
    path = directory / "README.md"
    if path.is_file():
        card = ModelCard.load(path, ignore_metadata_errors=True)
    else:
        config = TSRecConfig.from_pretrained(directory)
        card = build_model_card(config, SIDIndex.load(directory), name=directory.resolve().name)
    new = eval_results(evaluation)
    place = {(result.dataset_name, result.dataset_split) for result in new}
    kept = [r for r in card.data.eval_results or [] if (r.dataset_name, r.dataset_split) not in place]
    card.data.eval_results = kept + new
    card.data.model_name = card.data.model_name or directory.resolve().name
    card.text = with_results(card.text, results_text(evaluation))
    with replaced(path) as part:
        card.save(part)
    entries = eval_result_entries(evaluation)
    if entries:
        file = directory / EVAL_RESULTS_FOLDER / f"{entries[0].dataset_id.replace('/', '--')}.yaml"
        file.parent.mkdir(exist_ok=True)
        write_text(file, yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False))
    return path


def dataset_facts(dataset) -> dict[str, Any]:
    """
    Name and counts of a `RecommendationDataset`, for the fact `dataset` of a card.

    Example:

    ```python
    >>> from tsrec_hf.hub import dataset_facts

    >>> dataset_facts(dataset)
    {'name': 'tiny', 'items': 8, 'train': 6, 'valid': 2, 'test': 2}
    ```
    """
    return {"name": dataset.name, **{part: len(getattr(dataset, part)) for part in ("items", *SPLITS)}}


def check_base_model(base_model: Any) -> None:
    """Raises `ValueError` unless it is nothing or the name of a repository, which the card links to."""
    if base_model is None:
        return
    try:
        validate_repo_id(base_model)
    except HFValidationError as error:
        raise ValueError(
            f"Expected `base_model` as a Hub id such as 'HuggingFaceTB/SmolLM2-135M', but found {base_model!r}. Name "
            "the repository that the backbone came from, or leave the fact out."
        ) from error


def _told(stage: Mapping[str, Any]) -> dict[str, Any]:
    """A training stage as the template shows it."""
    told = {**stage, "method": as_line(stage["method"]), "settings": _settings(stage.get("settings") or {})}
    if stage.get("tasks"):
        told["tasks"] = {as_line(task): rows for task, rows in stage["tasks"].items()}
    if stage.get("rewards"):
        told["rewards"] = [as_line(reward) for reward in stage["rewards"]]
    return {**told, "trainable": as_line(stage.get("trainable", "all"))}


def _settings(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of settings as cells of a table."""
    return [
        (as_cell(name), as_cell(f"{value:g}" if isinstance(value, float) else value))
        for name, value in settings.items()
    ]


def _sa_init(initialization: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The variant of SA-Init without its figures, as code; `None` where it is unknown."""
    if not initialization:
        return None
    told = {
        as_line(name): as_code(value)
        for name, value in sorted(initialization.items())
        if name != "levels" and value is not None
    }
    if told.get("tokens_without_keywords") == "0":
        del told["tokens_without_keywords"]
    return told
