"""Plots of a run."""

import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from tsrec_hf.hub import plot_loss, plot_run


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


RESULTS = {
    "popularity": {"all": {"num_rows": 8, "hr@10": 0.05, "ndcg@10": 0.02}},
    "model": {"all": {"num_rows": 8, "hr@10": 0.125, "ndcg@10": 0.0625}},
}


def test_a_run_is_its_losses_and_a_bar_for_each_method_and_metric(tmp_path: Path, monkeypatch) -> None:
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **kwargs: figures.append(self) or save(self, *args, **kwargs)
    )
    plot_run(LOG, RESULTS, tmp_path / "run.png", title="Tiny")
    [figure] = figures
    losses, bars = figure.axes
    assert [line.get_label() for line in losses.lines] == ["training", "validation"]
    heights = [[bar.get_height() for bar in group] for group in bars.containers]
    assert heights == [[0.05, 0.02], [0.125, 0.0625]]
    assert [text.get_text() for text in bars.get_legend().get_texts()] == ["popularity", "model"]
    assert [label.get_text() for label in bars.get_xticklabels()] == ["HR@10", "NDCG@10"]
    assert {text.get_text() for text in bars.texts} == {"0.050", "0.020", "0.125", "0.062"}
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")


def test_results_that_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one method, but found none"):
        plot_run(LOG, {}, tmp_path / "run.png")
    with pytest.raises(ValueError, match="'model' lacks \\['hr@3'\\]"):
        plot_run(LOG, {"model": RESULTS["model"]}, tmp_path / "run.png", metrics=["hr@10", "hr@3"])
    assert not (tmp_path / "run.png").exists()


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match='`plot_run` needs matplotlib.*pip install "\\.\\[plots\\]"'):
        plot_run(LOG, RESULTS, tmp_path / "run.png")
    with pytest.raises(ImportError, match='`plot_loss` needs matplotlib.*pip install "\\.\\[plots\\]"'):
        plot_loss(LOG, tmp_path / "loss.png")
