"""
What does `import tsrec_hf` add to importing torch and transformers' Auto classes?

    python benchmarks/import_time.py

Each measurement is a new Python process, which times the imports one after the other; the medians over `--repeats` are
printed and written to `import_time.csv` in `--output_dir`. A first, unmeasured process fills the caches of compiled
files and of the disk.
"""

import statistics
from dataclasses import dataclass, field
from pathlib import Path

from common import in_new_process, markdown_table, run_script, write_csv


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
    """How often to measure."""

    repeats: int = field(default=9, metadata={"help": "Processes."})
    quick: bool = field(default=False, metadata={"help": "Three processes, to show that it works."})
    output_dir: str = field(default="outputs/import_time", metadata={"help": "Folder of the results."})

    def __post_init__(self):
        self.repeats = 3 if self.quick else self.repeats


def measure() -> dict[str, float]:
    """Seconds of each step in a new process."""
    steps = "\n".join(TIMED.format(code=code, name=name) for name, code in STEPS.items())
    return in_new_process("-c", CODE.format(steps=steps))[1]


def main(args: BenchmarkArguments) -> None:
    measure()
    runs = [measure() for _ in range(args.repeats)]
    medians = {name: statistics.median(run[name] for run in runs) for name in STEPS}
    before = medians["torch"] + medians["Auto classes"]
    header = ["step", "median (s)", "least (s)", "share of torch and Auto classes"]
    rows = [
        [name, f"{median:.3f}", f"{min(run[name] for run in runs):.3f}", f"{median / before:.3f}"]
        for name, median in medians.items()
    ]
    write_csv(Path(args.output_dir, "import_time.csv"), header, rows)
    print(markdown_table(header, rows))


if __name__ == "__main__":
    run_script(main, BenchmarkArguments)
