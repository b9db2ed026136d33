"""Generative baselines: Cornac's TIGER, and a decoder of SIDs alone that our trainer trains from scratch."""

import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import EarlyStoppingCallback, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from tsrec_hf import (
    RecommendationDataset,
    TSRecForCausalLM,
    TSRecSFTConfig,
    TSRecSFTTrainer,
    TSRecTokenizer,
    build_sequence_rows,
)


# A decoder of about a million weights: as wide as SASRec's embeddings are in the literature.
DECODER: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "attention_dropout": 0.1,
}
DECODER_TRAINING: dict[str, Any] = {"num_train_epochs": 20, "learning_rate": 2e-3, "batch_size": 64, "patience": 3}
NUM_BEAMS = 50
# Score of an item that a recommender of lists does not name; within float16.
UNNAMED = np.float32(-6e4)


def train_decoder(
    dataset: RecommendationDataset,
    seed: int,
    quick: bool = False,
    num_epochs: int = DECODER_TRAINING["num_train_epochs"],
    num_users: int = 1000,
) -> tuple[TSRecForCausalLM, TSRecTokenizer]:
    """Trains a small Llama from scratch on the sequence task; `num_users` of the validation split pick the epoch."""
    set_seed(seed)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _save_new_backbone(folder / "backbone")
        tokenizer = TSRecTokenizer.from_backbone(
            folder / "backbone", dataset.sid_index, max_history=dataset.max_history or 10
        )
        model = TSRecForCausalLM.from_backbone(folder / "backbone", tokenizer, dtype=torch.float32)
        # A vocabulary without words has no mean row that a SID token could start from.
        torch.nn.init.normal_(model.get_input_embeddings().weight, std=model.config.backbone_config.initializer_range)
        args = TSRecSFTConfig(
            str(folder / "run"),
            num_train_epochs=1 if quick else num_epochs,
            max_steps=4 if quick else -1,
            learning_rate=DECODER_TRAINING["learning_rate"],
            per_device_train_batch_size=DECODER_TRAINING["batch_size"],
            per_device_eval_batch_size=64,
            lr_scheduler_type="cosine",
            warmup_steps=1 if quick else 100,
            weight_decay=0.1,
            activation_checkpointing=False,
            train_sampling_strategy="group_by_length",
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model="eval_ndcg@10",
            eval_num_users=16 if quick else num_users,
            report_to="none",
            disable_tqdm=True,
            logging_strategy="epoch",
            seed=seed,
        )
        trainer = TSRecSFTTrainer(
            model,
            args,
            train_dataset=build_sequence_rows(dataset.train, tokenizer, targets_per_stretch=1),
            eval_dataset=build_sequence_rows(dataset.valid, tokenizer, targets_per_stretch=1),
            eval_interactions=dataset.valid,
            processing_class=tokenizer,
            callbacks=[EarlyStoppingCallback(DECODER_TRAINING["patience"])],
        )
        trainer.train()
    return model.eval(), tokenizer


def fit_decoder(dataset: RecommendationDataset, seed: int, quick: bool = False):
    """Trains that Llama; returns what scores the catalogue for rows."""
    model, tokenizer = train_decoder(dataset, seed, quick)

    def score(rows: Dataset) -> np.ndarray:
        scores = np.full((len(rows), len(tokenizer.sid_index)), UNNAMED)
        lists = model.recommend(tokenizer, rows["history"][:], top_k=NUM_BEAMS, num_beams=NUM_BEAMS, batch_size=32)
        for row, items in enumerate(lists):
            places = tokenizer.sid_index.positions_of([item.item_id for item in items])
            # Items of one SID share its score: the list's order goes on among them.
            scores[row, places] = [item.score - 1e-4 * place for place, item in enumerate(items)]
        return scores

    return score


def make_tiger(dataset: RecommendationDataset, train: Any, max_history: int, settings: dict[str, Any]) -> Any:
    """Cornac's TIGER on the SIDs of the data set, in the recipe of GRID."""
    from cornac.data import FeatureModality
    from cornac.models import TIGER
    from cornac.models.tiger import GRID_CONFIG

    assert dataset.sid_index is not None
    index = dataset.sid_index

    class TigerOnGivenSIDs(TIGER):
        def _tokenize(self, torch, feats_t):
            return index.codes.astype("int64")

    # It asks for features of the items, from which it would make SIDs.
    train.item_feature = FeatureModality(features=np.zeros((len(index), 1), dtype=np.float32))
    sizes = {"rqvae_num_levels": index.num_levels, "rqvae_codebook_size": int(index.codes.max()) + 1}
    return TigerOnGivenSIDs(**GRID_CONFIG | sizes | settings | {"max_len": max_history})


def _save_new_backbone(folder: Path) -> None:
    """An untrained Llama, and a tokenizer that knows no word: the prompt's are all `<unk>`, the same in every row."""
    vocabulary = {"<unk>": 0, "</s>": 1, "<pad>": 2}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)
    config = LlamaConfig(vocab_size=len(vocabulary), max_position_embeddings=1024, tie_word_embeddings=True, **DECODER)
    LlamaForCausalLM(config).save_pretrained(folder)
