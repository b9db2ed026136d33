"""
Model cards: the facts of a run in, a card for the Hub out.

Nothing in a card is asked of its author twice: what the configuration and the SID index say is read from them, what a
training run knows it leaves in `config.run_facts`, and what an evaluation found comes as `examples/evaluate.py` writes
it. A fact that nobody knows is left out, not guessed. Metrics stand beside the floors of the same rows, in the text
and in the `model-index` of the metadata.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

from tsrec_hf.models import SIDIndex, TSRecConfig
from tsrec_hf.models.configuration_tsrec import UNNAMED_REPO


TEMPLATE = Path(__file__).with_name("model_card_template.md")
FACTS = ("base_model", "dataset", "sid_method", "stages")
SPLITS = ("train", "valid", "test")
MODEL = "model"
# What an author sees of a metric's name, and the kind of match as its prefix in `RecommendationEvaluator`'s results.
KINDS = {"hr": ("hit_rate", "HR"), "ndcg": ("ndcg", "NDCG")}
MATCHES = {"item": "", "SID": "sid_"}
RESULTS_START, RESULTS_END = "<!-- results -->", "<!-- /results -->"

Evaluation = Mapping[str, Any]


def build_model_card(
    config: TSRecConfig,
    sid_index: SIDIndex,
    model_id: str = UNNAMED_REPO,
    name: str | None = None,
    facts: Mapping[str, Any] | None = None,
    evaluations: Sequence[Evaluation] = (),
    **card_data,
) -> ModelCard:
    r"""
    Makes the model card of a recommender.

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
            The method `"model"` is the recommender, all others are floors.
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
    >>> floor = {"num_rows": 8, "hr@10": 0.25, "ndcg@10": 0.125}
    >>> evaluation = {
    ...     "settings": {"dataset": "toy", "split": "test", "num_beams": 50},
    ...     "results": {"model": {"all": metrics}, "popularity": {"all": floor}},
    ... }
    >>> card = build_model_card(
    ...     model.config, tokenizer.sid_index, "me/tsrec-toy", evaluations=[evaluation], license="apache-2.0"
    ... )
    >>> [(result.metric_name, result.metric_value) for result in card.data.eval_results]
    [('HR@10, by item', 0.5), ('NDCG@10, by item', 0.25)]
    >>> card.data.eval_results[0].metric_args["floors"]
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
    card_data = {"library_name": "transformers", "language": "en", "base_model": facts.get("base_model"), **card_data}
    data = ModelCardData(
        **{**card_data, "tags": list(dict.fromkeys([*tags, *(card_data.get("tags") or [])]))},
        model_name=name if evaluations else None,
        eval_results=[result for evaluation in evaluations for result in _eval_results(evaluation)] or None,
        ignore_metadata_errors=True,
    )
    shared = sum(map(len, sid_index.collisions().values()))
    # What PEFT writes for adapters: their base, which is a recommender, in the place of the language model's.
    is_adapter = card_data["library_name"] == "peft"
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=_line(name),
        model_id=model_id,
        base_model=facts.get("base_model"),
        is_adapter=is_adapter,
        adapter_base=card_data["base_model"] if card_data["base_model"] != facts.get("base_model") else None,
        sid_method=_sentence(facts["sid_method"]) if facts.get("sid_method") else None,
        dataset={**dataset, "name": _line(dataset["name"]) if dataset.get("name") else None} if dataset else None,
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
        results="\n\n".join(map(_results_text, evaluations)),
        results_start=RESULTS_START,
        results_end=RESULTS_END,
    )


def add_evaluation(directory: str | Path, evaluation: Evaluation) -> Path:
    r"""
    Writes an evaluation into the model card of a local checkpoint, in the place of an older one of the same split.

    The rest of the card stays as it is, with what its author wrote by hand. A checkpoint without a card gets one.

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
    new = _eval_results(evaluation)
    place = {(result.dataset_name, result.dataset_split) for result in new}
    kept = [r for r in card.data.eval_results or [] if (r.dataset_name, r.dataset_split) not in place]
    card.data.eval_results = kept + new
    card.data.model_name = card.data.model_name or directory.resolve().name
    card.text = _with_results(card.text, _results_text(evaluation))
    card.save(path)
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


def _line(value: Any) -> str:
    """Anybody's text as one line of Markdown in which nothing is markup."""
    text = re.sub(r"([\\`*])", r"\\\1", " ".join(str(value).split()))
    return text.replace("<", "&lt;").replace("](", r"]\(")


def _sentence(value: Any) -> str:
    """The author's own Markdown as one line, which may hold links, but no comments: they mark the card's parts."""
    return " ".join(str(value).split()).replace("<!--", "&lt;!--")


def _told(stage: Mapping[str, Any]) -> dict[str, Any]:
    """A stage of training as the template shows it."""
    told = {**stage, "method": _line(stage["method"]), "settings": _rows(stage.get("settings") or {})}
    if stage.get("tasks"):
        told["tasks"] = {_line(task): rows for task, rows in stage["tasks"].items()}
    if stage.get("rewards"):
        told["rewards"] = [_line(reward) for reward in stage["rewards"]]
    return {**told, "trainable": _line(stage.get("trainable", "all"))}


def _sa_init(initialization: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The variant of SA-Init without its figures, as code; `None` where it is unknown."""
    if not initialization:
        return None
    told = {
        _line(name): " ".join(str(value).split()).replace("`", "'").replace("<!--", "<!")
        for name, value in sorted(initialization.items())
        if name != "levels" and value is not None
    }
    if told.get("tokens_without_keywords") == "0":
        del told["tokens_without_keywords"]
    return told


def _rows(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Settings as cells of a table."""
    return [
        (_cell(name), _cell(f"{value:g}" if isinstance(value, float) else value)) for name, value in settings.items()
    ]


def _cell(value: Any) -> str:
    """A value as a cell of a table, which a pipe or a line break would end."""
    return _line(value).replace("|", r"\|")


def _metric_names(metrics: Mapping[str, float], prefix: str) -> list[tuple[str, str, int]]:
    """Kind, key and cut-off of the metrics of one kind of match: HR at rising cut-offs, then NDCG."""
    found = []
    for kind in KINDS:
        start = f"{prefix}{kind}@"
        cut_offs = sorted(int(key.removeprefix(start)) for key in metrics if key.startswith(start))
        found += [(kind, f"{start}{k}", k) for k in cut_offs]
    return found


def _checked(evaluation: Evaluation) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    settings, results = evaluation.get("settings") or {}, evaluation.get("results") or {}
    if not (results.get(MODEL) or {}).get("all"):
        raise ValueError(
            f"Expected an evaluation with the results of {MODEL!r} on the slice 'all', but found methods "
            f"{list(results)}. Pass what `examples/evaluate.py --output_file` writes."
        )
    return settings, results


def _eval_results(evaluation: Evaluation) -> list[EvalResult]:
    """The model's metrics for the model-index, each with what the floors reach on the same rows."""
    settings, results = _checked(evaluation)
    dataset = " ".join(str(settings.get("dataset") or "unnamed").split())
    slug = re.sub(r"[^\w./-]+", "-", dataset.lower()).strip("-") or "unnamed"
    decoding = {name: settings[name] for name in ("search", "num_beams", "scoring") if name in settings}
    found = []
    for match, prefix in MATCHES.items():
        for kind, key, k in _metric_names(results[MODEL]["all"], prefix):
            floors = {
                method: round(slices["all"][key], 6)
                for method, slices in results.items()
                if method != MODEL and key in slices["all"]
            }
            metric_type, label = KINDS[kind]
            found.append(
                EvalResult(
                    task_type="recommendation",
                    task_name="Next-item recommendation",
                    dataset_type=str(settings.get("dataset_id") or slug),
                    dataset_name=dataset,
                    dataset_split=settings.get("split"),
                    metric_type=metric_type,
                    metric_name=f"{label}@{k}, by {match}",
                    metric_value=round(results[MODEL]["all"][key], 6),
                    metric_args={"k": k, "match": match, **decoding, **({"floors": floors} if floors else {})},
                )
            )
    return found


def _results_text(evaluation: Evaluation) -> str:
    settings, results = _checked(evaluation)
    rows = settings.get("rows") or results[MODEL]["all"].get("num_rows", "all")
    title = ", ".join(_line(settings[name]) for name in ("dataset", "split") if settings.get(name)) or "Results"
    shown = ("search", "num_beams", "scoring", "length_penalty", "max_history", "prompt_version", "dtype", "torch")
    decoding = ", ".join(f"{name} {_line(settings[name])}" for name in shown if name in settings)
    names = _metric_names(results[MODEL]["all"], "")
    columns = [f"{KINDS[kind][1]}@{k}" for kind, _, k in names]
    table = [["", *columns], ["---"] * (len(columns) + 1)]
    for method, slices in results.items():
        for match, prefix in MATCHES.items():
            cells = [slices["all"].get(f"{prefix}{key}") for _, key, _ in names]
            if any(cell is not None for cell in cells):
                table.append([f"{method}, by {match}", *("-" if cell is None else f"{cell:.4f}" for cell in cells)])
    parts = [
        f"### {title}",
        f"Rows: {_line(rows)}." + (f" Decoding: {decoding}." if decoding else ""),
        _table(table),
        _slices_text(results[MODEL], names),
        _verdict(results, names),
    ]
    return "\n\n".join(part.strip() for part in parts if part)


def _table(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in rows)


def _slices_text(slices: Mapping[str, Mapping[str, float]], names) -> str:
    """The model's figures at the highest cut-off for the slices that differ."""
    last = names[-1][2]
    rows = [
        [name, f"{metrics['num_rows']}", f"{metrics[f'hr@{last}']:.4f}", f"{metrics[f'ndcg@{last}']:.4f}"]
        for name, metrics in slices.items()
        if name != "all" and f"hr@{last}" in metrics
    ]
    if not rows:
        return ""
    head = [["targets", "rows", f"HR@{last}, by item", f"NDCG@{last}, by item"], ["---"] * 4]
    return "By kind of target (cold: not in training; repeat: in the history; new: neither):\n\n" + _table(head + rows)


def _verdict(results: Mapping[str, Any], names) -> str:
    """Where floors rank as well or better, by item: readers should not have to find that themselves."""
    ahead = []
    for method, slices in results.items():
        if method != MODEL:
            better = [
                f"{KINDS[kind][1]}@{k}"
                for kind, key, k in names
                if key in slices["all"] and slices["all"][key] >= results[MODEL]["all"][key]
            ]
            where = "everywhere" if len(better) == len(names) else ", ".join(better)
            ahead += [f"{_line(method)} ({where})"] if better else []
    if len(results) == 1:
        return "No floors were computed for these rows: whether the model is worth its price is not shown."
    if ahead:
        return f"As good as the model or better, by item: {'; '.join(ahead)}."
    return "The model is above every floor, by item and at every cut-off."


def _with_results(text: str, block: str) -> str:
    """A card's text with a block of results in the place of the one under the same heading."""
    start, end = text.find(RESULTS_START), text.find(RESULTS_END)
    if start < 0 or end < start:
        return f"{text.rstrip()}\n\n## Results\n\n{RESULTS_START}\n\n{block}\n\n{RESULTS_END}\n"
    blocks = re.split(r"(?m)^(?=### )", text[start + len(RESULTS_START) : end].strip())
    heading = block.splitlines()[0]
    blocks = [old.strip() for old in blocks if old.startswith("### ") and old.splitlines()[0].strip() != heading]
    return f"{text[:start]}{RESULTS_START}\n\n" + "\n\n".join([*blocks, block]) + f"\n\n{text[end:]}"
