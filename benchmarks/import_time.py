"""
What does `import tsrec_hf` add to importing torch and transformers' Auto classes?

    python benchmarks/import_time.py

Each measurement is a new Python process, which times the imports one after the other; the medians over `--repeats` are
printed and written to `import_time.csv` in `--output_dir`. A first, unmeasured process fills the caches of compiled
files and of the disk.
"""

import csv
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser


STEPS = {
    "torch": "import torch",
    "Auto classes": "from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer",
    "tsrec_hf": "import tsrec_hf",
    "config and tokenizer classes": "tsrec_hf.TSRecConfig, tsrec_hf.TSRecTokenizer",
    "model class": "tsrec_hf.TSRecForCausalLM",
    "trainer classes": "tsrec_hf.TSRecSFTTrainer, tsrec_hf.TSRecGRPOTrainer",
}
CODE = """
import json, time
seconds = {{}}
{steps}
print(json.dumps(seconds))
"""
TIMED = "start = time.perf_counter(); {code}; seconds[{name!r}] = time.perf_counter() - start"


@dataclass
class BenchmarkArguments:
    """How often."""

    repeats: int = field(default=9, metadata={"help": "Processes."})
    quick: bool = field(default=False, metadata={"help": "Three processes, to show that it works."})
    output_dir: str = field(default="outputs/import_time", metadata={"help": "Folder of the results."})

    def __post_init__(self):
        self.repeats = 3 if self.quick else self.repeats


def measure() -> dict[str, float]:
    """Seconds of each step in a new process."""
    steps = "\n".join(TIMED.format(code=code, name=name) for name, code in STEPS.items())
    run = subprocess.run(
        [sys.executable, "-c", CODE.format(steps=steps)], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(run.stdout.splitlines()[-1])


def main(args: BenchmarkArguments) -> None:
    measure()
    runs = [measure() for _ in range(args.repeats)]
    medians = {name: statistics.median(run[name] for run in runs) for name in STEPS}
    before = medians["torch"] + medians["Auto classes"]
    rows = [["step", "median (s)", "least (s)", "share of torch and Auto classes"]]
    for name, median in medians.items():
        rows.append([name, f"{median:.3f}", f"{min(run[name] for run in runs):.3f}", f"{median / before:.3f}"])
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "import_time.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    rows.insert(1, ["---"] * len(rows[0]))
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))


if __name__ == "__main__":
    [arguments] = HfArgumentParser(BenchmarkArguments).parse_args_into_dataclasses()
    main(arguments)
