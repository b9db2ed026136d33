"""
Results of an evaluation in a model card: as entries of the model-index, and as the text of the section "Results".

Both put the model's metrics beside the baselines' on the same rows.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, EvalResultEntry

from .markdown import as_line, as_table


MODEL = "model"
# Type of a metric in the model-index and its label, by its name in `RecommendationEvaluator`'s results; and what its
# name begins with there, by kind of match.
KINDS = {"hr": ("hit_rate", "HR"), "ndcg": ("ndcg", "NDCG")}
MATCHES = {"item": "", "SID": "sid_"}
SLICES = {
    "cold": "not in training",
    "repeat": "in the history",
    "new": "neither",
    "memorised": "followed an item of the history in training",
    "unmemorised": "followed none of them",
}
# Settings of an evaluation that decide its figures, as far as it names them.
SEARCH = ("search", "num_beams", "scoring")
DECODING = (*SEARCH, "prior", "length_penalty", "max_history", "prompt_version", "dtype", "torch")
RESULTS_START, RESULTS_END = "<!-- results -->", "<!-- /results -->"

Evaluation = Mapping[str, Any]


class Metric(NamedTuple):
    """A metric in the results: its kind (`"hr"`), its key (`"sid_hr@10"`) and its cut-off."""

    kind: str
    key: str
    k: int

    @property
    def label(self) -> str:
        """How tables name it: `HR@10`."""
        return f"{KINDS[self.kind][1]}@{self.k}"


def metrics_of(results: Mapping[str, float], prefix: str) -> list[Metric]:
    """Lists the metrics of one kind of match: HR at increasing cut-offs, then NDCG."""
    found = []
    for kind in KINDS:
        start = f"{prefix}{kind}@"
        cut_offs = sorted(int(key.removeprefix(start)) for key in results if key.startswith(start))
        found += [Metric(kind, f"{start}{k}", k) for k in cut_offs]
    return found


def eval_results(evaluation: Evaluation) -> list[EvalResult]:
    """Converts an evaluation to entries of the model-index, each with the baselines' figures on the same rows."""
    settings, results = _checked(evaluation)
    dataset = " ".join(str(settings.get("dataset") or "unnamed").split())
    slug = re.sub(r"[^\w./-]+", "-", dataset.lower()).strip("-") or "unnamed"
    search = {name: settings[name] for name in SEARCH if name in settings}
    found = []
    for match, prefix in MATCHES.items():
        for metric in metrics_of(results[MODEL]["all"], prefix):
            baselines = {
                method: round(slices["all"][metric.key], 6)
                for method, slices in results.items()
                if method != MODEL and metric.key in slices["all"]
            }
            args = {"k": metric.k, "match": match, **search, **({"baselines": baselines} if baselines else {})}
            found.append(
                EvalResult(
                    task_type="recommendation",
                    task_name="Next-item recommendation",
                    dataset_type=str(settings.get("dataset_id") or slug),
                    dataset_name=dataset,
                    dataset_split=settings.get("split"),
                    metric_type=KINDS[metric.kind][0],
                    metric_name=f"{metric.label}, by {match}",
                    metric_value=round(results[MODEL]["all"][metric.key], 6),
                    metric_args=args,
                )
            )
    return found


def eval_result_entries(evaluation: Evaluation) -> list[EvalResultEntry]:
    """
    Converts an evaluation to entries of `.eval_results/*.yaml`, a task for each metric of the model by item; none
    where the settings do not name the data set's repository on the Hub, `dataset_id`.
    """
    settings, results = _checked(evaluation)
    if not settings.get("dataset_id"):
        return []
    split, found = settings.get("split") or "test", results[MODEL]["all"]
    notes = ", ".join(f"{name} {as_line(settings[name])}" for name in DECODING if name in settings) or None
    return [
        EvalResultEntry(
            dataset_id=str(settings["dataset_id"]),
            task_id=f"{split}_{metric.kind}_at_{metric.k}",
            value=round(found[metric.key], 6),
            notes=notes,
        )
        for metric in metrics_of(found, MATCHES["item"])
    ]


def results_text(evaluation: Evaluation) -> str:
    """Formats an evaluation as a block of Markdown under a heading of its own."""
    settings, results = _checked(evaluation)
    rows = settings.get("rows") or results[MODEL]["all"].get("num_rows", "all")
    title = ", ".join(as_line(settings[name]) for name in ("dataset", "split") if settings.get(name)) or "Results"
    decoding = ", ".join(f"{name} {as_line(settings[name])}" for name in DECODING if name in settings)
    metrics = metrics_of(results[MODEL]["all"], MATCHES["item"])
    parts = [
        f"### {title}",
        f"Rows: {as_line(rows)}." + (f" Decoding: {decoding}." if decoding else ""),
        _methods_table(results, metrics),
        _slices_table(results[MODEL], metrics),
        _verdict(results, metrics),
    ]
    return "\n\n".join(part.strip() for part in parts if part)


def with_results(text: str, block: str) -> str:
    """Returns a card's text with a block of results in place of the one under the same heading."""
    start, end = text.find(RESULTS_START), text.find(RESULTS_END)
    if start < 0 or end < start:
        return f"{text.rstrip()}\n\n## Results\n\n{RESULTS_START}\n\n{block}\n\n{RESULTS_END}\n"
    blocks = re.split(r"(?m)^(?=### )", text[start + len(RESULTS_START) : end].strip())
    heading = block.splitlines()[0]
    blocks = [old.strip() for old in blocks if old.startswith("### ") and old.splitlines()[0].strip() != heading]
    return f"{text[:start]}{RESULTS_START}\n\n" + "\n\n".join([*blocks, block]) + f"\n\n{text[end:]}"


def _checked(evaluation: Evaluation) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Settings and results of an evaluation that has those of the model."""
    settings, results = evaluation.get("settings") or {}, evaluation.get("results") or {}
    if not (results.get(MODEL) or {}).get("all"):
        raise ValueError(
            f"Expected an evaluation with the results of {MODEL!r} on the slice 'all', but found methods "
            f"{list(results)}. Pass what `examples/evaluate.py --output_file` writes."
        )
    return settings, results


def _methods_table(results: Mapping[str, Any], metrics: Sequence[Metric]) -> str:
    """All methods on all rows, by item and by SID."""
    rows = []
    for method, slices in results.items():
        for match, prefix in MATCHES.items():
            cells = [slices["all"].get(f"{prefix}{metric.key}") for metric in metrics]
            if any(cell is not None for cell in cells):
                rows.append([f"{method}, by {match}", *("-" if cell is None else f"{cell:.4f}" for cell in cells)])
    return as_table(["", *(metric.label for metric in metrics)], rows)


def _slices_table(slices: Mapping[str, Mapping[str, float]], metrics: Sequence[Metric]) -> str:
    """The model's figures at the highest cut-off on every slice that has rows; nothing where there is none."""
    last = metrics[-1].k
    shown = {name: found for name, found in slices.items() if name != "all" and f"hr@{last}" in found}
    if not shown:
        return ""
    rows = [
        [name, f"{found['num_rows']}", f"{found[f'hr@{last}']:.4f}", f"{found[f'ndcg@{last}']:.4f}"]
        for name, found in shown.items()
    ]
    # "New" is explained by the two before it, whether or not these have rows.
    explained = [name for name in SLICES if name in slices]
    legend = f" ({'; '.join(f'{name}: {SLICES[name]}' for name in explained)})" if explained else ""
    table = as_table(["targets", "rows", f"HR@{last}, by item", f"NDCG@{last}, by item"], rows)
    return f"By kind of target{legend}:\n\n{table}"


def _verdict(results: Mapping[str, Any], metrics: Sequence[Metric]) -> str:
    """Says which baselines rank as well or better, by item: readers should not have to find that themselves."""
    if len(results) == 1:
        return "No baselines were computed for these rows: whether the model is worth its price is not shown."
    ahead = []
    for method, slices in results.items():
        if method != MODEL:
            better = [
                metric.label
                for metric in metrics
                if metric.key in slices["all"] and slices["all"][metric.key] >= results[MODEL]["all"][metric.key]
            ]
            where = "everywhere" if len(better) == len(metrics) else ", ".join(better)
            ahead += [f"{as_line(method)} ({where})"] if better else []
    if ahead:
        return f"As good as the model or better, by item: {'; '.join(ahead)}."
    return "The model is above every baseline, by item and at every cut-off."
