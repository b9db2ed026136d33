"""
Recommend items to someone who took some: the ids of the catalogue, the oldest first.

    python examples/recommend.py --model_name_or_path outputs/sft --history 117 118
"""

from dataclasses import dataclass, field

from transformers import HfArgumentParser, pipeline

import tsrec_hf  # noqa: F401 (makes the pipeline known)


@dataclass
class ScriptArguments:
    """Who asks whom, and for how many."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of the recommender."})
    history: list[str] = field(metadata={"help": "Ids of the items that were taken, the oldest first."})
    top_k: int = field(default=10, metadata={"help": "Number of recommendations."})
    num_beams: int = field(default=50, metadata={"help": "Beams of the search."})
    exclude_history: bool = field(default=True, metadata={"help": "Whether to leave out what was taken."})


def main(args: ScriptArguments) -> None:
    recommend = pipeline("recommendation", model=args.model_name_or_path)
    recommended = recommend(
        args.history, top_k=args.top_k, num_beams=args.num_beams, exclude_history=args.exclude_history
    )
    for place, item in enumerate(recommended, start=1):
        print(f"{place:3}. {item['item_id']:12} {item['sid']}  {item['score']:7.2f}  {item['title']}")


if __name__ == "__main__":
    main(*HfArgumentParser(ScriptArguments).parse_args_into_dataclasses())
