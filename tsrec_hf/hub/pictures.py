"""Plots of a run, as image files for a card or a report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tsrec_hf.models.checking_tsrec import checks_types


def plot_loss(log_history: Sequence[Mapping[str, Any]], path: str | Path, title: str = "Training") -> None:
    r"""
    Plots training loss, by task too where there are several, and validation loss against steps. Needs matplotlib.

    Args:
        log_history (`Sequence[Mapping[str, Any]]`):
            `trainer.state.log_history`, or what `trainer_state.json` of a checkpoint keeps under that name.
        path (`str` or `Path`):
            Image file to write; its suffix decides the format.
        title (`str`, *optional*, defaults to `"Training"`):
            Title of the plot.

    Raises:
        `ImportError`: matplotlib is not installed.

    Example:

    ```python
    >>> import tempfile
    >>> from tsrec_hf.hub import plot_loss

    >>> path = tempfile.mkdtemp() + "/loss.png"
    >>> plot_loss([{"step": 5, "loss": 4.2}, {"step": 10, "loss": 3.9}, {"step": 10, "eval_loss": 4.0}], path)
    ```
    """
    figure = _new_figure("plot_loss", figsize=(6, 4))
    _draw_losses(figure.subplots(), log_history, title)
    figure.savefig(path, dpi=150)


@checks_types
def plot_run(
    log_history: Sequence[Mapping[str, Any]],
    results: Mapping[str, Mapping[str, Mapping[str, float]]],
    path: str | Path,
    title: str = "",
    metrics: Sequence[str] = ("hr@10", "ndcg@10"),
) -> None:
    r"""
    Plots a run at a glance: the losses of training, and the metrics of several methods as bars. Needs matplotlib.

    Args:
        log_history (`Sequence[Mapping[str, Any]]`):
            As [`plot_loss`] takes it.
        results (`Mapping[str, Mapping[str, Mapping[str, float]]]`):
            What [`RecommendationEvaluator.evaluate`] returned, by name of the method, in the order of the bars. The
            slice `all` is drawn.
        path (`str` or `Path`):
            Image file to write; its suffix decides the format.
        title (`str`, *optional*):
            Title of the picture.
        metrics (`Sequence[str]`, *optional*, defaults to `("hr@10", "ndcg@10")`):
            Metrics to draw.

    Raises:
        `ImportError`: matplotlib is not installed. `ValueError`: no method, or one that lacks a metric.

    Example:

    ```python
    >>> import tempfile
    >>> from tsrec_hf.hub import plot_run

    >>> results = {"popularity": {"all": {"hr@10": 0.05}}, "model": {"all": {"hr@10": 0.12}}}
    >>> plot_run([{"step": 5, "loss": 4.2}], results, tempfile.mkdtemp() + "/run.png", metrics=["hr@10"])
    ```
    """
    if not results:
        raise ValueError("Expected the results of at least one method, but found none. Evaluate a method first.")
    for method, slices in results.items():
        absent = [metric for metric in metrics if metric not in slices["all"]]
        if absent:
            raise ValueError(
                f"Expected the metrics {list(metrics)} of every method, but {method!r} lacks {absent}. Pass `metrics` "
                "that all methods have."
            )
    figure = _new_figure("plot_run", figsize=(11, 4))
    losses, bars = figure.subplots(1, 2)
    _draw_losses(losses, log_history, "Training")
    width = 0.8 / len(results)
    for place, (method, slices) in enumerate(results.items()):
        starts = [column + (place - (len(results) - 1) / 2) * width for column in range(len(metrics))]
        drawn = bars.bar(starts, [slices["all"][metric] for metric in metrics], width, label=method)
        bars.bar_label(drawn, fmt="%.3f", fontsize=7)
    bars.set_xticks(range(len(metrics)), [metric.upper() for metric in metrics])
    bars.set(title="Evaluation")
    bars.legend(fontsize=8)
    if title:
        figure.suptitle(title)
    figure.savefig(path, dpi=150)


def _new_figure(function: str, figsize: tuple[float, float]) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f'`{function}` needs matplotlib, which is not installed. Install it with `pip install ".[plots]"` in a '
            "clone of the repository."
        ) from error
    return Figure(figsize=figsize, layout="constrained")


def _draw_losses(axes: Any, log_history: Sequence[Mapping[str, Any]], title: str) -> None:
    names = [("loss", "training"), ("eval_loss", "validation")]
    tasks = dict.fromkeys(key for entry in log_history for key in entry if key.startswith("loss/"))
    # A single task's loss is the whole.
    names += [(key, key.removeprefix("loss/")) for key in tasks] if len(tasks) > 1 else []
    for name, label in names:
        points = [(entry["step"], entry[name]) for entry in log_history if name in entry]
        if points:
            axes.plot(*zip(*points), label=label, linewidth=0.8 if name in tasks else None)
    axes.set(xlabel="step", ylabel="loss", title=title)
    if axes.lines:
        axes.legend()
