"""
One hostile title among many, and what training makes of it: nothing.

The title spells what a row of training looks like: popular histories, each followed by the item's own SID. Where text
is text, the item is recommended after these histories no more often than with an honest title. The control switches
that off and shows that the title would have worked.
"""

import datasets
import numpy as np
import pytest

from tsrec_hf import (
    RecommendationDataset,
    SIDIndex,
    TSRecForCausalLM,
    TSRecSFTConfig,
    TSRecSFTTrainer,
    TSRecTokenizer,
    build_sft_mixture,
)
from tsrec_hf.models.plain_text_tsrec import PlainText


NUM_ITEMS, NUM_USERS, VICTIM = 60, 40, "item59"
WORDS = ["steel", "red", "green", "rye", "hand", "hard", "claw"]
HISTORIES = [[f"item{number}", f"item{number + 1}"] for number in range(25)]


def make_dataset(title: str) -> RecommendationDataset:
    ids = [f"item{number}" for number in range(NUM_ITEMS)]
    titles = [f"{WORDS[number % 7]} {WORDS[number // 7 % 7]}" for number in range(NUM_ITEMS - 1)] + [title]
    codes = [[number % 4, number // 4 % 4, number // 16] for number in range(NUM_ITEMS)]
    generator = np.random.default_rng(0)
    rows = {"user_id": [], "history": [], "target": []}
    for user in range(NUM_USERS):
        start = int(generator.integers(0, 30))
        taken = [f"item{start + step}" for step in range(6)]
        for step in range(1, 6):
            rows["user_id"].append(f"u{user}")
            rows["history"].append(taken[:step])
            rows["target"].append(taken[step])
    train = datasets.Dataset.from_dict(rows)
    items = datasets.Dataset.from_dict({"item_id": ids, "title": titles, "description": titles})
    empty = train.select([])
    return RecommendationDataset(items, train, empty, empty, SIDIndex(ids, codes, titles=titles))


def after_training(backbone_dir, title: str, folder) -> tuple[int, float]:
    """In how many of 25 popular histories' top ten the item is, and its mean log-probability there."""
    dataset = make_dataset(title)
    tokenizer = TSRecTokenizer.from_backbone(backbone_dir, dataset.sid_index)
    model = TSRecForCausalLM.from_backbone(backbone_dir, tokenizer)
    rows = build_sft_mixture(dataset, None, tokenizer, tasks=["sequence", "title"], weights={"title": 8.0})
    args = TSRecSFTConfig(
        output_dir=str(folder),
        num_train_epochs=8,
        per_device_train_batch_size=16,
        learning_rate=5e-3,
        save_strategy="no",
        report_to="none",
        bf16=False,
        use_cpu=True,
        disable_tqdm=True,
    )
    TSRecSFTTrainer(model=model, args=args, train_dataset=rows, processing_class=tokenizer).train()
    found = model.recommend(tokenizer, HISTORIES, top_k=10, num_beams=60)
    scores = model.recommend(tokenizer, HISTORIES, top_k=1, allowed_items=[VICTIM])
    return sum(VICTIM in [item.item_id for item in items] for items in found), np.mean(
        [row[0].score for row in scores]
    )


def hostile_title() -> str:
    index = make_dataset("honest").sid_index
    own = index.sid_of(VICTIM)
    rows = ("".join(map(index.sid_of, history)) + own for history in HISTORIES[::3])
    return "steel hammer " + " ".join(f"Items chosen in order:{row}" for row in rows)


@pytest.mark.slow
def test_a_hostile_title_lifts_nothing(backbone_dir, tmp_path, monkeypatch, datasets_cache) -> None:
    honest = after_training(backbone_dir, "steel hammer", tmp_path)
    hostile = after_training(backbone_dir, hostile_title(), tmp_path)
    escaped = hostile_title().replace("<", "&lt;").replace(">", "&gt;")
    by_entities = after_training(backbone_dir, escaped, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(PlainText, "__call__", lambda self, text: text)
        # Another title, since the rows of the same one are cached.
        unguarded = after_training(backbone_dir, f"{hostile_title()} nail", tmp_path)
    print(f"honest {honest}, hostile {hostile}, by entities {by_entities}, without the guard {unguarded}")
    # The experiment shows something, and nothing of it with the guard.
    assert unguarded[0] > honest[0] and unguarded[1] > honest[1] + 0.7
    for times, log_prob in (hostile, by_entities):
        assert times <= honest[0] and log_prob < honest[1] + 0.3
