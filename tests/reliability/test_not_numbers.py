"""NaN and infinity as settings: refused at the start, by name."""

import math

import numpy as np
import pytest

from tsrec_hf import (
    DataCollatorForTSAlign,
    NextItemPrior,
    SimilarityPrior,
    TSRecGRPOConfig,
    TSRecSFTConfig,
    build_sft_mixture,
    initialize_sid_embeddings,
    join_collaborative,
    prefix_reward,
)
from tsrec_hf.models.prior_search_tsrec import Fusion
from tsrec_hf.trainers import ground_sid_rows


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_settings_that_are_no_numbers(
    number: float, tmp_path, model, tokenizer, semantics, dataset, sid_index
) -> None:
    def sft(**settings):
        return TSRecSFTConfig(str(tmp_path), bf16=False, **settings)

    def grpo(**settings):
        return TSRecGRPOConfig(str(tmp_path), bf16=False, **settings)

    codes, vectors = np.zeros((2, 3), dtype=np.int64), np.eye(8, dtype=np.float32)
    settings = {
        "learning_rate": lambda: sft(learning_rate=number),
        "weight_decay": lambda: sft(weight_decay=number),
        "task_weights": lambda: sft(task_weights={"title": number}),
        "beta": lambda: grpo(beta=number),
        "temperature": lambda: grpo(temperature=number),
        "reward_weights": lambda: grpo(reward_weights=[1.0, number]),
        "norm": lambda: initialize_sid_embeddings(model, tokenizer, semantics, norm=number),
        "weights": lambda: build_sft_mixture(dataset, semantics, tokenizer, weights={"title": number}),
        "`task_weights`": lambda: DataCollatorForTSAlign(tokenizer, task_weights={"title": number}),
        "weight of a prior": lambda: Fusion("mixture", number),
        "history_decay": lambda: NextItemPrior.fit(dataset.train, sid_index, history_decay=number),
        "`temperature`": lambda: SimilarityPrior(sid_index, vectors, temperature=number),
        "`weight`": lambda: join_collaborative(vectors, vectors, number),
        "level_weights": lambda: prefix_reward(codes, codes, level_weights=[1.0, number, 1.0]),
        "`learning_rate`": lambda: ground_sid_rows(model, tokenizer, semantics, sft(), learning_rate=number),
    }
    for name, make in settings.items():
        with pytest.raises(ValueError, match=f"{name}.*{number}|{number}.*{name}"):
            make()
