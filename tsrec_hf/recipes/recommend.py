"""Recommendations for one history."""

from transformers import pipeline

from .options import RecommendOptions


def main(args: RecommendOptions) -> None:
    recommend = pipeline(  # type: ignore[call-overload]  # a task of ours
        "recommendation", model=args.model_name_or_path, revision=args.revision
    )
    index = recommend.tokenizer.sid_index
    places = index.positions_of(args.history)
    names = args.history if index.titles is None else [index.titles[place] for place in places]
    print(f"{args.model_name_or_path}, {index}, after: {'; '.join(names)}")
    recommended = recommend(
        args.history, top_k=args.top_k, num_beams=args.num_beams, exclude_history=args.exclude_history
    )
    for place, item in enumerate(recommended, start=1):
        print(f"{place:3}. {item['item_id']:12} {item['sid']}  {item['score']:7.2f}  {item['title']}")
