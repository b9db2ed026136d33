"""
How long does it take, and how much memory, to read a million reviews and make training rows of them?

    python benchmarks/readers.py

Synthetic files in the forms of Amazon Reviews 2018 and 2023, CSV, TSV, JSON lines, text with `::`, Parquet in one file
and in 20 parts, RecBole, LC-Rec, sequences and MovieLens are read, tidied, filtered to the 5-core and split, each form
in a process of its own; text is gzipped, but for RecBole's and LC-Rec's. `summary.csv` and the printed table give the
seconds of each step, the processor's seconds (less than wall time where other programs run) and the peak of resident
memory; the summary shows what was kept and dropped. `OMP_NUM_THREADS` limits Arrow's threads.

A plain read of the same two files into memory by pandas, or by `json` where a file is no table, is what it is compared
with: the processor's seconds of reading and tidying, over those of the plain read.

`--baseline_dir` names another checkout of this repository: it reads the same files in the same run, and the last
column is that ratio of the processor's seconds for reading, here to there.

The files are made once (about a minute) and stay in `--output_dir`.
"""

import gzip
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.csv
import pyarrow.parquet
from common import Laps, in_new_process, markdown_table, replaced, resident_bytes, run_script, table_of, write_csv


# What the commit 3a79a36 knows as well, for `--baseline_dir`; and what came later.
EARLIER_FORMS = ("amazon_2018", "amazon_2023", "csv", "tsv", "jsonl", "parquet")
FORMS = (*EARLIER_FORMS, "parts", "dat", "movielens", "recbole", "lcrec", "sequences")
# Names of the two files, in a folder of the form.
NAMES = {
    "csv": ("log.csv.gz", "items.csv.gz"),
    "tsv": ("log.tsv.gz", "items.tsv.gz"),
    "dat": ("log.dat.gz", "items.dat.gz"),
    "parquet": ("log.parquet", "items.parquet"),
    "parts": ("log", "items"),
    "movielens": ("ratings.csv.gz", "movies.csv.gz"),
    "recbole": ("recbole.inter", "recbole.item"),
    "lcrec": ("X.inter.json", "X.item.json"),
    "sequences": ("log.txt.gz", "items.csv.gz"),
}
NUM_PARTS = 20
SPLITTERS = ("chronological_split", "leave_one_out_split")
WORDS_OF_REVIEW = 60
WORDS_OF_DESCRIPTION = 80


@dataclass
class BenchmarkArguments:
    """How much to read."""

    num_reviews: int = field(default=1_000_000, metadata={"help": "Reviews in each file."})
    forms: list[str] = field(default_factory=lambda: list(FORMS), metadata={"help": f"Among {', '.join(FORMS)}."})
    splitter: str = field(default=SPLITTERS[0], metadata={"help": f"One of {', '.join(SPLITTERS)}."})
    quick: bool = field(default=False, metadata={"help": "A twentieth of the reviews, to show that it works."})
    baseline_dir: str | None = field(default=None, metadata={"help": "Another checkout, to compare with."})
    measure: str | None = field(default=None, metadata={"help": "Internal: the form that this process measures."})
    plain: bool = field(default=False, metadata={"help": "Internal: measure the plain read."})
    output_dir: str = field(default="outputs/readers", metadata={"help": "Folder of the files and results."})

    def __post_init__(self):
        unknown = [form for form in self.forms if form not in FORMS]
        if unknown or self.splitter not in SPLITTERS:
            raise ValueError(f"Expected forms among {FORMS} and a splitter among {SPLITTERS}, but found {self}.")
        self.num_reviews = self.num_reviews // 20 if self.quick else self.num_reviews


################
# Synthetic data
################
def draw_log(num_reviews: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Users, items, seconds and ratings; few users and items are frequent, as in a shop's log."""
    generator = np.random.default_rng(0)
    users = np.floor(num_reviews / 4 * generator.random(num_reviews) ** 3).astype(int)
    items = np.floor(num_reviews / 15 * generator.random(num_reviews) ** 2).astype(int)
    # In 2 of 100 rows the row before is repeated.
    again = np.flatnonzero(generator.random(num_reviews) < 0.02)[1:]
    users[again], items[again] = users[again - 1], items[again - 1]
    return users, items, generator.integers(1.1e9, 1.5e9, num_reviews), generator.integers(1, 6, num_reviews)


def draw_texts(num_words: int) -> Iterator[str]:
    """Texts of up to `num_words` words, without end."""
    generator = np.random.default_rng(1)
    words = np.array(
        ["".join(generator.choice(list("etaoinshrdlu"), size)) for size in generator.integers(2, 11, 5000)]
    )
    # Overlapping stretches of one long text cost less than texts of their own.
    text = words[generator.zipf(1.3, 1_000_000) % len(words)]
    while True:
        begin = generator.integers(0, len(text) - num_words)
        yield " ".join(text[begin : begin + generator.integers(num_words // 4, num_words)])


SIGNS = {"csv": ",", "movielens": ",", "sequences": ",", "tsv": "\t", "recbole": "\t", "dat": "::"}
HEADERS = {
    "recbole": (
        ("user_id:token", "item_id:token", "timestamp:float", "rating:float"),
        ("item_id:token", "title:token_seq", "description:token_seq"),
    ),
    "movielens": (("userId", "movieId", "timestamp", "rating", "text"), ("movieId", "title", "genres")),
}
TABLE = ("user_id", "item_id", "timestamp", "rating", "text"), ("item_id", "title", "description")


def review_lines(form: str, num_reviews: int) -> Iterator[str]:
    """Lines of the file of reviews."""
    log = (column.tolist() for column in draw_log(num_reviews))
    rows = zip(*log, draw_texts(2 * WORDS_OF_REVIEW))
    if form == "sequences":
        yield from (f"U{user:08} B{item:08}\n" for user, item, *_ in rows)
    elif form == "lcrec":
        users: dict[int, list[int]] = {}
        for user, item, *_ in rows:
            users.setdefault(user, []).append(item)
        yield json.dumps(users)
    elif form in SIGNS:
        sign, quote = SIGNS[form], '"' if SIGNS[form] == "," else ""
        yield sign.join(HEADERS.get(form, TABLE)[0]) + "\n"
        for user, item, second, rating, text in rows:
            texts = () if form == "recbole" else (f"{quote}{text}{quote}",)  # its reader keeps all that is there
            yield sign.join((f"U{user:08}", f"B{item:08}", f"{second}", f"{rating}", *texts)) + "\n"
    elif form == "jsonl":
        for user, item, second, rating, text in rows:
            review = {"user_id": f"U{user:08}", "item_id": f"B{item:08}", "timestamp": second, "rating": rating}
            yield json.dumps(review | {"text": text}) + "\n"
    elif form == "amazon_2018":
        for user, item, second, rating, text in rows:
            review = {"overall": float(rating), "vote": "3", "verified": True, "reviewTime": "05 3, 2018"}
            review |= {"reviewerID": f"A{user:013}", "asin": f"B{item:09}", "style": {"Size:": " 12"}}
            review |= {"reviewerName": "Ann", "reviewText": text, "summary": text[:30], "unixReviewTime": second}
            yield json.dumps(review) + "\n"
    else:
        for user, item, second, rating, text in rows:
            review = {"rating": float(rating), "title": text[:30], "text": text, "images": [], "asin": f"B{item:09}"}
            review |= {"parent_asin": f"B{item:09}", "user_id": f"A{user:027}", "timestamp": 1000 * second + 7}
            yield json.dumps(review | {"helpful_vote": 0, "verified_purchase": True}) + "\n"


def item_lines(form: str, num_items: int) -> Iterator[str]:
    """Lines of the file of items: every 50th has no title, every 40th comes twice, half of the texts have markup."""
    catalogue: dict[str, dict[str, str]] = {}
    if form in SIGNS:
        yield SIGNS[form].join(HEADERS.get(form, TABLE)[1]) + "\n"
    for item, text in zip(range(num_items), draw_texts(2 * WORDS_OF_DESCRIPTION)):
        title = "" if item % 50 == 0 else f"{text[:40]} &amp; {item}"
        text = f"<p>{text[:20]}</p>{text[20:]}" if item % 2 else text
        if form in SIGNS:
            quote = '"' if SIGNS[form] == "," else ""
            line = SIGNS[form].join((f"B{item:08}", f"{quote}{title}{quote}", f"{quote}{text}{quote}\n"))
        elif form == "lcrec":
            catalogue[str(item)] = {"title": title, "description": text}
            continue
        elif form == "jsonl":
            line = json.dumps({"item_id": f"B{item:08}", "title": title, "description": text}) + "\n"
        elif form == "amazon_2018":
            # Some descriptions are strings and not lists: such a block is read line by line.
            description = text if item % 1000 == 0 and item < num_items // 4 else [text]
            product = {"category": ["Toys", "Games"], "description": description, "title": title, "also_buy": []}
            line = json.dumps(product | {"brand": "Acme", "feature": [text[:80]], "asin": f"B{item:09}"}) + "\n"
        else:
            product = {"main_category": "Toys", "title": title, "features": [text[:80]], "description": [text]}
            product |= {"price": 9.99, "images": [{"large": "x.jpg"}], "store": "Acme", "details": {"Colour": "Red"}}
            line = json.dumps(product | {"categories": ["Toys"], "parent_asin": f"B{item:09}"}) + "\n"
        yield from [line] * (2 if item % 40 == 0 else 1)
    if form == "lcrec":
        yield json.dumps(catalogue)


def make_files(form: str, num_reviews: int, output_dir: Path) -> tuple[Path, Path]:
    """Paths of the reviews and the items, written on first use."""
    folder = output_dir / f"{form}_{num_reviews}" / ("recbole" if form == "recbole" else "")
    folder.mkdir(parents=True, exist_ok=True)
    first, second = (folder / name for name in NAMES.get(form, ("reviews.jsonl.gz", "items.jsonl.gz")))
    if form in ("parquet", "parts"):
        for path, table in zip((first, second), make_files("csv", num_reviews, output_dir)):
            if not path.exists():
                content = pyarrow.csv.read_csv(table)
                with replaced(path) as part:
                    write_parquet(content, part, NUM_PARTS if form == "parts" else None)
        return first, second
    lines = (review_lines(form, num_reviews), item_lines(form, num_reviews // 15))
    for path, content in zip((first, second), lines):
        if not path.exists():
            packed = path.suffix == ".gz"
            with replaced(path) as part:
                with gzip.open(part, "wt", compresslevel=3) if packed else part.open("w") as file:
                    file.writelines(content)
    return first, second


def write_parquet(table: pyarrow.Table, path: Path, num_parts: int | None) -> None:
    """Writes one file, or a folder of parts as Spark leaves it."""
    if num_parts is None:
        pyarrow.parquet.write_table(table, path)
        return
    path.mkdir()
    size = -(-len(table) // num_parts)
    for number in range(num_parts):
        part = path / f"part-{number:05}.snappy.parquet"
        pyarrow.parquet.write_table(table.slice(number * size, size), part)
    (path / "_SUCCESS").touch()


################
# Measuring
################
def read(form: str, paths: tuple[Path, Path]):
    """Reads and tidies two files by the reader of their form."""
    from tsrec_hf import items

    if form.startswith("amazon"):
        return items.load_amazon(*paths)
    if form == "sequences":
        return items.load_sequences(*paths, repeats="first")
    if form == "movielens":
        return items.load_published("movielens", paths[0].parent, repeats="first")
    if form == "recbole":
        return items.tidy(items.load_recbole(paths[0].parent), repeats="first")
    if form == "lcrec":
        # Not of the public names: `load_lcrec` splits as well.
        return items.tidy(import_module("tsrec_hf.items.readers.lcrec").read_lcrec(paths[0].parent), untitled="keep")
    if form == "parts":
        return items.load_table(paths[0], paths[1], repeats="first")
    return items.load_table(*paths, repeats="first", **({"delimiter": "::"} if form == "dat" else {}))


def read_plainly(form: str, path: Path):
    """Reads one file as anyone would; `::` is read as `:`, which pandas parses in C."""
    if form in ("parquet", "parts"):
        return pd.read_parquet(path)
    if form == "lcrec":
        return json.loads(path.read_text())
    if form in SIGNS:
        sign = " " if path.name.endswith(".txt.gz") else SIGNS[form][0]
        return pd.read_csv(path, sep=sign, header=None if sign == " " else 0, quoting=0 if sign == "," else 3)
    return pd.read_json(path, lines=True)


def measure(args: BenchmarkArguments) -> None:
    """Reads one form; prints the summary and, as a line of JSON, the time and memory it took."""
    import pyarrow as pa

    from tsrec_hf import items

    paths = make_files(args.measure, args.num_reviews, Path(args.output_dir))
    laps = Laps()
    if args.plain:
        tables = [read_plainly(args.measure, path) for path in paths]
        laps.lap("read")
        print(json.dumps({"rows": [len(table) for table in tables], "CPU (s)": laps.cpu["read"]}))
        return
    figures = {"form": args.measure, "reviews": args.num_reviews, "threads": pa.cpu_count()}
    figures["GB after import"] = resident_bytes(peak=True) / 2**30
    laps = Laps()
    log = read(args.measure, paths)
    laps.lap("read and tidy")
    log = items.k_core(log)
    laps.lap("5-core")
    in_order = args.measure in ("sequences", "lcrec")
    dataset = log.split(items.leave_one_out_split if in_order else getattr(items, args.splitter))
    laps.lap("split")
    figures |= {f"{step} (s)": seconds for step, seconds in laps.wall.items()}
    figures |= {"total (s)": sum(laps.wall.values()), "CPU (s)": sum(laps.cpu.values())}
    figures["CPU of reading (s)"] = laps.cpu["read and tidy"]
    figures["peak GB"] = resident_bytes(peak=True) / 2**30
    print(log.summary.with_splits(dataset))
    print(json.dumps(figures))


def size_of(path: Path) -> int:
    """Bytes of a file, or of the files of a folder."""
    return sum(one.stat().st_size for one in (path.rglob("*") if path.is_dir() else [path]))


@contextmanager
def package_from(folder: str) -> Iterator[None]:
    """New processes import the package from another folder."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(Path(folder).resolve())
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def main(args: BenchmarkArguments) -> None:
    if args.measure:
        measure(args)
        return
    folder = Path(args.output_dir)
    results = []
    for form in args.forms:
        paths = make_files(form, args.num_reviews, folder)
        print(f"== {form}: {' and '.join(f'{size_of(path) / 2**20:.0f} MB' for path in paths)}", flush=True)
        options = {"measure": form, "num_reviews": args.num_reviews, "splitter": args.splitter}
        options["output_dir"] = args.output_dir
        line = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        summary, figures = in_new_process(__file__, *line)
        print("\n".join(summary), flush=True)
        _, plain = in_new_process(__file__, *line, "--plain", "true")
        figures["ratio to plain read"] = figures["CPU of reading (s)"] / plain["CPU (s)"]
        figures["ratio to baseline"] = None
        if args.baseline_dir is not None and form in EARLIER_FORMS:
            with package_from(args.baseline_dir):
                _, before = in_new_process(__file__, *line)
            figures["ratio to baseline"] = figures["CPU of reading (s)"] / before["CPU of reading (s)"]
        results.append(figures)
        header, rows = table_of(results, digits=2)
        write_csv(folder / "summary.csv", header, rows)
    print(markdown_table(header, rows))


if __name__ == "__main__":
    run_script(main, BenchmarkArguments)
