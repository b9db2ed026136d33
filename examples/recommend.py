"""
Recommend items for one history: ids of the catalogue, oldest first.

    python examples/recommend.py --model_name_or_path outputs/sft --history 117 118
"""

from dataclasses import dataclass, field

from transformers import HfArgumentParser, pipeline

import tsrec_hf  # noqa: F401 (makes the pipeline known)


@dataclass
class ScriptArguments:
    """Checkpoint, history and settings of the search."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub id of the recommender."})
    history: list[str] = field(metadata={"help": "Ids of the items in the history, oldest first."})
    top_k: int = field(default=10, metadata={"help": "Number of recommendations."})
    num_beams: int = field(default=50, metadata={"help": "Beams of the search."})
    revision: str | None = field(default=None, metadata={"help": "Commit, branch or tag of a Hub id."})
    exclude_history: bool = field(default=True, metadata={"help": "Whether to leave out the items of the history."})


def main(args: ScriptArguments) -> None:
    recommend = pipeline("recommendation", model=args.model_name_or_path, revision=args.revision)
    recommended = recommend(
        args.history, top_k=args.top_k, num_beams=args.num_beams, exclude_history=args.exclude_history
    )
    for place, item in enumerate(recommended, start=1):
        print(f"{place:3}. {item['item_id']:12} {item['sid']}  {item['score']:7.2f}  {item['title']}")


if __name__ == "__main__":
    main(*HfArgumentParser(ScriptArguments).parse_args_into_dataclasses())
