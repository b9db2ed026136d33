"""What the benchmarks share: runs that resume, writes that are whole or not at all, tables."""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

import pytest


SPEC = importlib.util.spec_from_file_location("common", Path(__file__).parents[2] / "benchmarks" / "common.py")
common = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(common)


class TestRuns:
    def test_a_finished_run_is_not_repeated(self, tmp_path: Path) -> None:
        calls = []

        def run() -> dict:
            calls.append(1)
            return {"loss": 0.5}

        first = common.Runs(tmp_path / "runs", {"steps": 3, "sizes": (1, 2)}).get("random-seed0", run)
        again = common.Runs(tmp_path / "runs", {"steps": 3, "sizes": (1, 2)}).get("random-seed0", run)
        assert len(calls) == 1 and first == again
        assert again["loss"] == 0.5 and again["arguments"] == {"steps": 3, "sizes": [1, 2]}
        assert again["seconds"] >= 0 and again["torch"]
        common.Runs(tmp_path / "runs", {"steps": 3, "sizes": (1, 2)}).get("random-seed1", run)
        assert len(calls) == 2

    def test_a_run_with_a_broken_file_is_repeated(self, tmp_path: Path, capsys) -> None:
        runs = common.Runs(tmp_path, {"steps": 3})
        runs.get("whole", lambda: {"loss": 1.0})
        (tmp_path / "broken.json").write_text('{"loss": 0.')
        assert [result["loss"] for result in runs.finished()] == [1.0]
        assert runs.get("broken", lambda: {"loss": 2.0})["loss"] == 2.0
        assert "broken.json is not valid JSON" in capsys.readouterr().out
        assert json.loads((tmp_path / "broken.json").read_text())["loss"] == 2.0
        assert [result["loss"] for result in runs.finished()] == [2.0, 1.0]

    def test_a_run_that_fails_leaves_nothing(self, tmp_path: Path) -> None:
        runs = common.Runs(tmp_path, {})
        with pytest.raises(ZeroDivisionError):
            runs.get("one", lambda: {"loss": 1 / 0})
        assert runs.finished() == [] and list(tmp_path.iterdir()) == []

    def test_a_run_of_other_settings_is_refused(self, tmp_path: Path) -> None:
        common.Runs(tmp_path, {"steps": 3}).get("one", dict, keywords="abc")
        for settings, own in (({"steps": 4}, "abc"), ({"steps": 3}, "xyz"), ({"steps": 3, "beams": 5}, "abc")):
            with pytest.raises(
                ValueError, match="one.json to be a run of the same settings.*Pass another `--output_dir`"
            ):
                common.Runs(tmp_path, settings).get("one", dict, keywords=own)


class TestReplaced:
    def test_an_error_leaves_the_old_file(self, tmp_path: Path) -> None:
        path = tmp_path / "results" / "table.md"
        common.write_text(path, "old")
        with pytest.raises(RuntimeError), common.replaced(path) as part:
            part.write_text("half of the n")
            raise RuntimeError
        assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]
        with pytest.raises(TypeError):
            common.write_json(path, {"not": object()})
        assert path.read_text() == "old"

    def test_the_new_file_takes_the_place(self, tmp_path: Path) -> None:
        path = tmp_path / "curves.csv"
        for rows in ([[1, "a"]], [[2, "b"], [3, "c, d"]]):
            common.write_csv(path, ["step", "name"], rows)
        assert path.read_text() == 'step,name\n2,b\n3,"c, d"\n' and list(tmp_path.iterdir()) == [path]

    def test_a_folder_is_there_whole_or_not_at_all(self, tmp_path: Path) -> None:
        folder = tmp_path / "backbone"
        with pytest.raises(RuntimeError), common.replaced(folder) as part:
            part.mkdir()
            (part / "config.json").write_text("{}")
            raise RuntimeError
        assert list(tmp_path.iterdir()) == []
        with common.replaced(folder) as part:
            part.mkdir()
            (part / "config.json").write_text("{}")
        assert [path.name for path in folder.iterdir()] == ["config.json"]

    def test_a_report_has_its_figures_beside_it(self, tmp_path: Path) -> None:
        common.write_report(tmp_path / "cpu.md", "| a |\n", {"rows": [1]})
        assert (tmp_path / "cpu.md").read_text() == "| a |\n"
        assert json.loads((tmp_path / "cpu.json").read_text()) == {"rows": [1]}


def test_tables() -> None:
    assert common.markdown_table(["a", "b"], [[1, "x"], [2, "y"]]) == "| a | b |\n| --- | --- |\n| 1 | x |\n| 2 | y |"
    header, rows = common.table_of([{"form": "csv", "seconds": 1.2345, "rows": 7}], digits=2)
    assert (header, rows) == (["form", "seconds", "rows"], [["csv", "1.23", "7"]])
    assert common.settings_line({"threads": 1, "seed": 0}) == "Settings: threads 1, seed 0."


def test_the_spread_is_the_sample_standard_deviation() -> None:
    assert common.spread([0.5]) == "0.5000"
    # Mean 2; squared deviations 1 + 0 + 1, over two: 1.
    assert common.spread([1.0, 2.0, 3.0]) == "2.0000 ± 1.0000"


def test_the_band_spans_the_runs() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    common.draw_band(axes, [0, 1], [[1.0, 4.0], [3.0, 8.0]], "two runs", linestyle="--")
    assert axes.lines[0].get_ydata().tolist() == [2.0, 6.0] and axes.lines[0].get_label() == "two runs"
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (1.0, 8.0)


def test_laps_are_columns() -> None:
    laps = common.Laps()
    laps.lap("fit")
    laps.lap("encode")
    assert list(laps.columns()) == ["fit (s)", "fit (CPU s)", "encode (s)", "encode (CPU s)"]
    assert all(seconds >= 0 for seconds in laps.columns().values())


def test_a_new_process_gives_its_last_line() -> None:
    code = 'import json; print("summary"); print(json.dumps({"seconds": 1.5}))'
    assert common.in_new_process("-c", code) == (["summary"], {"seconds": 1.5})


class TestRunScript:
    @pytest.fixture
    def started(self):
        return []

    @pytest.fixture
    def run(self, started, monkeypatch):
        @dataclass(kw_only=True)
        class Arguments(common.DataArguments):
            steps: int = 3

        def run(*line: str) -> None:
            monkeypatch.setattr("sys.argv", ["benchmark.py", *line])
            common.run_script(lambda args: started.append((args.data_dir, args.steps)), Arguments)

        return run

    def test_data_come_from_the_environment_or_the_command_line(self, run, started, monkeypatch) -> None:
        monkeypatch.setenv("TSREC_DATA", "there")
        run()
        run("--data_dir", "here", "--steps", "4")
        run("--data", "here")
        assert started == [("there", 3), ("here", 4), ("here", 3)]

    def test_without_data_it_says_so(self, run, started, monkeypatch, capsys) -> None:
        monkeypatch.delenv("TSREC_DATA", raising=False)
        run()
        assert not started and "Skipped: name the data set's folder by --data_dir" in capsys.readouterr().out
