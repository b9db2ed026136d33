"""Recommendations for one history."""

from transformers import pipeline

from .options import RecommendOptions


def main(args: RecommendOptions) -> None:
    recommend = pipeline("recommendation", model=args.model_name_or_path, revision=args.revision)
    recommended = recommend(
        args.history, top_k=args.top_k, num_beams=args.num_beams, exclude_history=args.exclude_history
    )
    for place, item in enumerate(recommended, start=1):
        print(f"{place:3}. {item['item_id']:12} {item['sid']}  {item['score']:7.2f}  {item['title']}")
