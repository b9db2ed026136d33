"""A recommender goes to the Hub, whole."""

from .options import PushOptions
from .recommender import Recommender


def main(args: PushOptions) -> None:
    recommender = Recommender.from_pretrained(args.model_name_or_path)
    print(recommender.push_to_hub(args.repo_id, private=args.private, commit_message=args.commit_message))
