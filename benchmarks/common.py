"""
What the benchmarks share: options, results on disk, runs that resume, tables, plots, time and memory.

Scripts import this module as a sibling, since they are run as `python benchmarks/x.py`.
"""

import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import HfArgumentParser


################
# Options
################
@dataclass(kw_only=True)
class DataArguments:
    """Options of benchmarks that read a prepared data set."""

    data_dir: str | None = field(
        default_factory=lambda: os.environ.get("TSREC_DATA"),
        metadata={
            "aliases": ["--data"],
            "help": "Folder in MiniOneRec's layout; default: the environment variable TSREC_DATA.",
        },
    )


def run_script(main: Callable[[Any], None], arguments_class: type) -> None:
    """Parses the command line and calls `main`; without a data set that it needs, says so instead."""
    [args] = HfArgumentParser(arguments_class).parse_args_into_dataclasses()
    if isinstance(args, DataArguments) and args.data_dir is None:
        print("Skipped: name the data set's folder by --data_dir or the environment variable TSREC_DATA.")
        return
    main(args)


def draw_rows(rows: Dataset, number: int, seed: int = 0) -> Dataset:
    """A sample of rows; the same one for the same seed."""
    return rows.shuffle(seed=seed).select(range(number)).flatten_indices()


################
# Results on disk
################
# Imported on use: `readers.py --baseline_dir` measures versions of the package that do not have the module.
def replaced(path: Path) -> AbstractContextManager[Path]:
    """A file beside `path` to write to, which takes its place when all is written."""
    from tsrec_hf.models import replacing_tsrec

    return replacing_tsrec.replaced(path)


def write_text(path: Path, text: str) -> None:
    """Writes a file, or leaves the old one as it was."""
    from tsrec_hf.models import replacing_tsrec

    replacing_tsrec.write_text(path, text)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, all of it or nothing."""
    write_text(path, json.dumps(value, indent=1))


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Writes CSV, all of it or nothing."""
    with replaced(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def write_report(path: str | Path, text: str, results: Mapping[str, Any]) -> None:
    """Writes a report as Markdown, and its figures as JSON beside it."""
    path = Path(path)
    write_text(path, text)
    write_json(path.with_suffix(".json"), results)


class Runs:
    """
    The runs of a study, a JSON file each: a study that was stopped goes on where it stopped.

    Args:
        folder (`Path`):
            Folder of the files.
        settings (`Mapping[str, Any]`):
            What a run depends on, kept in its file. A finished run of other settings is refused, since its figures
            cannot stand beside the others.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        self.folder, self.settings = Path(folder), dict(settings)

    def get(self, name: str, run: Callable[[], dict[str, Any]], **settings: Any) -> dict[str, Any]:
        """Result of the finished run `name`, or else of `run()`; `settings` are of this run only."""
        path = self.folder / f"{name}.json"
        wanted = json.loads(json.dumps(self.settings | settings))
        result = self._read(path)
        if result is None:
            print(f"== {name}", flush=True)
            started = time.perf_counter()
            result = run()
            seconds = time.perf_counter() - started
            result |= {"seconds": seconds, "arguments": wanted, "torch": torch.__version__}
            write_json(path, result)
        found = result["arguments"]
        differing = {key: (found.get(key), value) for key, value in wanted.items() if found.get(key) != value}
        if differing:
            raise ValueError(
                f"Expected {path} to be a run of the same settings, but found (there, here): {differing}. Pass "
                "another `--output_dir`, or the settings of that run."
            )
        return result

    def finished(self) -> list[dict[str, Any]]:
        """Results of all runs in the folder, of earlier calls too, sorted by name."""
        results = [self._read(path) for path in sorted(self.folder.glob("*.json"))]
        return [result for result in results if result is not None]

    @staticmethod
    def _read(path: Path) -> dict[str, Any] | None:
        if not path.exists():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            print(f"{path} is not valid JSON: its run counts as not made.", flush=True)
            return None


################
# Tables and plots
################
def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in [header, ["---"] * len(header), *rows])


def table_of(records: Sequence[Mapping[str, Any]], digits: int) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table with a column a key; floats are rounded."""
    header = list(records[0])
    rows = [
        [f"{one[key]:.{digits}f}" if isinstance(one[key], float) else str(one[key]) for key in header]
        for one in records
    ]
    return header, rows


def spread(values: Sequence[float]) -> str:
    """Mean and, from two values on, sample standard deviation."""
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"


def environment(device: str = "cpu") -> dict[str, Any]:
    """Device, threads and version of torch, which times depend on."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else "CPU"
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def settings_line(settings: Mapping[str, Any]) -> str:
    """Settings as a sentence above a table."""
    return "Settings: " + ", ".join(f"{name} {value}" for name, value in settings.items()) + "."


def draw_band(axes, steps: Sequence[float], curves: Sequence[Sequence[float]], label: str, **style) -> None:
    """Draws the mean of the curves of several runs, of shape `(runs, steps)`, and the band between their extremes."""
    values = np.asarray(curves)
    (line,) = axes.plot(steps, values.mean(axis=0), label=label, **style)
    axes.fill_between(steps, values.min(axis=0), values.max(axis=0), alpha=0.15, color=line.get_color())


################
# Time and memory
################
def now(clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds by a clock, once a GPU has done all that it was asked to."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock()


def timed(function: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> tuple[Any, float]:
    """What a function returns, and how many seconds it took."""
    start = now(clock)
    result = function()
    return result, now(clock) - start


class Laps:
    """Wall time and the processor's time of consecutive steps."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self._start()

    def _start(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def lap(self, name: str) -> None:
        """Ends a step and begins the next one."""
        self.wall[name] = time.perf_counter() - self._wall
        self.cpu[name] = time.process_time() - self._cpu
        self._start()

    def columns(self) -> dict[str, float]:
        """Columns of a table."""
        columns = {}
        for name, seconds in self.wall.items():
            columns |= {f"{name} (s)": seconds, f"{name} (CPU s)": self.cpu[name]}
        return columns


def resident_bytes(peak: bool = False) -> int:
    """Memory that this process holds, or the most that it held so far (Linux)."""
    # `resource.ru_maxrss` of a new process begins with what its parent held.
    name = "VmHWM" if peak else "VmRSS"
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024


def in_new_process(*arguments: str) -> tuple[list[str], dict[str, Any]]:
    """Runs Python with these arguments; returns the lines it printed and the JSON object of the last one."""
    run = subprocess.run([sys.executable, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    *lines, last = run.stdout.strip().splitlines()
    return lines, json.loads(last)
