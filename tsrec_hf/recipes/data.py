"""Data by name: two tables to start with, and where others come from."""

from pathlib import Path

import datasets

from tsrec_hf.hub import movielens_from_wheel
from tsrec_hf.items import load_recbole, tidy

from .options import DataOptions
from .sources import as_text


NAMES = ("ml-100k",)


def main(args: DataOptions) -> None:
    if args.list:
        print(as_text())
        return
    if args.name not in NAMES:
        raise ValueError(
            f"Expected a data set among {list(NAMES)}, but found {args.name!r}. Where others come from: tsrec data "
            "--list."
        )
    folder = Path(args.output_dir or Path("data", args.name))
    datasets.disable_progress_bar()
    log = tidy(load_recbole(movielens_from_wheel()))
    folder.mkdir(parents=True, exist_ok=True)
    items = log.items.map(lambda one: {"description": f"{' '.join(one['class'])} movie of {one['release_year']}"})
    items.select_columns(["item_id", "title", "description"]).to_csv(folder / "items.csv")
    log.interactions.select_columns(["user_id", "item_id", "timestamp"]).to_csv(folder / "interactions.csv")
    print(f"{folder}: {len(log.items):,} items, {len(log.interactions):,} interactions")
    print(f"Next: tsrec train --items {folder / 'items.csv'} --interactions {folder / 'interactions.csv'}")
