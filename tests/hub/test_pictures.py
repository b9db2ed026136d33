"""Plots of a run."""

import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from tsrec_hf.hub import plot_loss


LOG = [
    {"step": 5, "loss": 4.0, "grad_norm": 1.0},
    {"step": 10, "loss": 3.0},
    {"step": 10, "eval_loss": 3.5},
    {"step": 10, "train_runtime": 9.0},
]


def test_both_losses_are_drawn_where_there_are_both(tmp_path: Path, monkeypatch) -> None:
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **kwargs: figures.append(self) or save(self, *args, **kwargs)
    )
    plot_loss(LOG, tmp_path / "loss.png", title="Tiny")
    plot_loss(LOG[:2], str(tmp_path / "training.png"))
    plot_loss([], tmp_path / "empty.png")
    drawn = [[(line.get_label(), line.get_xydata().tolist()) for line in f.axes[0].lines] for f in figures]
    training = ("training", [[5.0, 4.0], [10.0, 3.0]])
    assert drawn == [[training, ("validation", [[10.0, 3.5]])], [training], []]
    assert figures[0].axes[0].get_title() == "Tiny"
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("loss.png", "training.png"))


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match='`plot_loss` needs matplotlib.*pip install "tsrec_hf\\[plots\\]"'):
        plot_loss(LOG, tmp_path / "loss.png")
