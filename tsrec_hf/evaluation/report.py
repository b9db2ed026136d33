"""Tables of results as text."""

from collections.abc import Mapping
from typing import Literal

from tsrec_hf.models.checking_tsrec import checks_types


MATCH_PREFIXES = {"item": "", "sid": "sid_"}


@checks_types
def metrics_table(
    results: Mapping[str, Mapping[str, Mapping[str, float]]],
    slice: str = "all",
    match: Literal["item", "sid"] = "item",
) -> str:
    r"""
    Formats the metrics of several methods as one Markdown table.

    Args:
        results (`Mapping[str, Mapping[str, Mapping[str, float]]]`):
            What [`RecommendationEvaluator.evaluate`] returned, by name of the method, in the order of the table.
        slice (`str`, *optional*, defaults to `"all"`):
            Rows to report: a slice of [`RecommendationEvaluator`].
        match (`str`, *optional*, defaults to `"item"`):
            What counts as a hit: `"item"` for the item itself, `"sid"` for its SID, as in the published tables.

    Returns:
        `str`: One line per method, HR and NDCG at every cut-off of the first one with 4 decimals; dashes where the
        slice has no rows.

    Example:

    ```python
    >>> from tsrec_hf.evaluation import metrics_table

    >>> metrics = {"num_rows": 8, "hr@1": 0.125, "hr@10": 0.5, "ndcg@1": 0.125, "ndcg@10": 0.25}
    >>> print(metrics_table({"popularity": {"all": metrics}}))
    | method | HR@1 | HR@10 | NDCG@1 | NDCG@10 |
    | --- | --- | --- | --- | --- |
    | popularity | 0.1250 | 0.5000 | 0.1250 | 0.2500 |
    ```
    """
    if match not in MATCH_PREFIXES:
        raise ValueError(f"Expected `match` to be one of {list(MATCH_PREFIXES)}, but found {match!r}.")
    if not results:
        raise ValueError("Expected the results of at least one method, but found none. Evaluate a method first.")
    rows = {}
    for method, slices in results.items():
        if slice not in slices:
            raise ValueError(
                f"Expected results for slice {slice!r}, but {method!r} has {list(slices)}. Pass one of these as "
                "`slice`."
            )
        rows[method] = _select(slices[slice], MATCH_PREFIXES[match])
    metrics = next((list(row) for row in rows.values() if row), [])
    for method, row in rows.items():
        # Baselines may reach further than the model's beams do: what the first method lacks is in no column.
        if row and not set(row) >= set(metrics):
            raise ValueError(
                f"Expected the same metrics for every method, but {method!r} has {list(row)}, where others have "
                f"{metrics}. Evaluate all methods with the same `ks`."
            )
    lines = [["method", *metrics], ["---"] * (len(metrics) + 1)]
    for method, row in rows.items():
        # A pipe would end the cell.
        lines.append([method.replace("|", r"\|"), *(f"{row[name]:.4f}" if row else "-" for name in metrics)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


@checks_types
def results_table(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    r"""
    Formats all metrics of several methods as one Markdown table: by kind of target, by item and by SID.

    Args:
        results (`Mapping[str, Mapping[str, Mapping[str, float]]]`):
            What [`RecommendationEvaluator.evaluate`] returned, by name of the method, in the order of the table.

    Returns:
        `str`: A line for each slice that has rows, kind of match and method; columns as in [`metrics_table`].

    Example:

    ```python
    >>> from tsrec_hf.evaluation import results_table

    >>> metrics = {"num_rows": 8, "hr@1": 0.125, "ndcg@1": 0.125, "sid_hr@1": 0.25, "sid_ndcg@1": 0.25}
    >>> print(results_table({"popularity": {"all": metrics, "cold": {"num_rows": 0}}}))
    | targets | rows | match by | method | HR@1 | NDCG@1 |
    | --- | --- | --- | --- | --- | --- |
    | all | 8 | item | popularity | 0.1250 | 0.1250 |
    | all | 8 | sid | popularity | 0.2500 | 0.2500 |
    ```
    """
    rows = {
        (name, str(slices[name]["num_rows"]), match, method.replace("|", r"\|")): _select(slices[name], prefix)
        for name, first in next(iter(results.values()), {}).items()
        for match, prefix in MATCH_PREFIXES.items()
        for method, slices in results.items()
        if first["num_rows"]
    }
    # By SID lists may reach further than by item; baselines reach further than the model's beams do.
    model = next(iter(results), "").replace("|", r"\|")
    metrics = max((list(row) for key, row in rows.items() if key[-1] == model), key=len, default=[])
    lines = [["targets", "rows", "match by", "method", *metrics], ["---"] * (len(metrics) + 4)]
    lines += [[*key, *(f"{row[name]:.4f}" if name in row else "-" for name in metrics)] for key, row in rows.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _select(metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
    """The metrics of one kind of match under their column names: HR at increasing cut-offs, then NDCG."""
    selected: dict[str, float] = {}
    for kind in ("hr", "ndcg"):
        start = f"{prefix}{kind}@"
        cut_offs = sorted(int(name.removeprefix(start)) for name in metrics if name.startswith(start))
        selected |= {f"{kind.upper()}@{k}": metrics[f"{start}{k}"] for k in cut_offs}
    return selected
