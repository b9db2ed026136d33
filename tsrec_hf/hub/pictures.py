"""Plots of a run, as image files for a card or a report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def plot_loss(log_history: Sequence[Mapping[str, Any]], path: str | Path, title: str = "Training") -> None:
    r"""
    Plots training loss and, where there is any, validation loss against steps. Needs matplotlib.

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
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            '`plot_loss` needs matplotlib, which is not installed. Install it with `pip install "tsrec_hf[plots]"`.'
        ) from error
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, label in (("loss", "training"), ("eval_loss", "validation")):
        points = [(entry["step"], entry[name]) for entry in log_history if name in entry]
        if points:
            axes.plot(*zip(*points), label=label)
    axes.set(xlabel="step", ylabel="loss", title=title)
    if axes.lines:
        axes.legend()
    figure.savefig(path, dpi=150)
