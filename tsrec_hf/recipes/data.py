"""Data by name: two tables to start with, and where others come from."""

from pathlib import Path

import datasets

from tsrec_hf.hub import movielens_from_wheel
from tsrec_hf.items import load_recbole, tidy

from .options import DataOptions


NAMES = ("ml-100k",)
SOURCES = """\
By name, from a package index (pip install --no-deps recbole==1.2.1):
  ml-100k             tsrec data ml-100k --output_dir data/ml-100k
                      943 people, 1,682 movies, 100,000 ratings of 1997 and 1998 (grouplens.org/datasets/movielens)

What the paper and its predecessors use, and what reads it (tsrec build --format, or the function):
  Amazon Industrial, Office (2018; MiniOneRec's and TS-Rec's data)
                      prepared, with SIDs: github.com/AkaliKong/MiniOneRec, folder data   load_minionerec, --data_dir
                      raw: cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2                   --format amazon2018
  Amazon 2014         cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html                --format amazon2014
  Amazon 2023         amazon-reviews-2023.github.io                                       --format amazon2023
  Beauty, Sports, Toys (5-core sequences of P5, TIGER, LETTER)
                      user and item numbers, a line a user                                --format sequences
  Scientific, Instruments, Arts, Games (LC-Rec)
                      github.com/RUCAIBox/LC-Rec                                          --format lcrec
  RecBole's atomic files (Amazon, Yelp, Gowalla, LastFM, ...)
                      recbole.io/dataset_list.html                                        --format recbole
  MovieLens 100k, 1M, 10M, 20M, 25M, 32M
                      grouplens.org/datasets/movielens                                    --format movielens
  Steam               cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data                  --format steam
  Yelp                yelp.com/dataset                                                    --format yelp
  H&M                 kaggle.com/competitions/h-and-m-personalized-fashion-recommendations    --format hm
  Retailrocket        kaggle.com/datasets/retailrocket/ecommerce-dataset                  --format retailrocket
  Taobao UserBehavior tianchi.aliyun.com/dataset/649                                      --format taobao
  MIND                msnews.github.io                                                    --format mind
  Book-Crossing, Last.fm 1K, Goodreads                   --format bookcrossing, --format lastfm, --format goodreads
Your own tables: tsrec train --items items.csv --interactions log.csv; any table, CSV, JSON lines or Parquet."""


def main(args: DataOptions) -> None:
    if args.list:
        print(SOURCES)
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
