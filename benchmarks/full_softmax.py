"""
SASRec with cross-entropy over the whole catalogue: Cornac's network, with a loss and a stop of our own.

Cornac's losses compare a target with those of its batch and a sample of further items. Where all items fit in a
matrix of scores, the full softmax needs no sample, and is known to lift SASRec far above its published figures.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from cornac.models import SASRec
from cornac.models.recommender import NextItemRecommender
from cornac.models.sasrec.sasrec import SASRecModel
from cornac.models.seq_utils import session_seq_iter
from torch.nn import functional as F

from tsrec_hf import ndcg_at_k


SCORED_TOGETHER = 512


class FullSoftmaxSASRec(SASRec):
    """
    Cornac's SASRec with a full softmax and early stopping by NDCG@10 on validation.

    Args:
        patience (`int`): Epochs without progress on validation after which training stops.
        weight_decay (`float`): Of AdamW.
        settings (*optional*): Arguments of Cornac's `SASRec`; those of its losses and samples have no effect.
    """

    def __init__(self, patience: int = 4, weight_decay: float = 0.0, **settings: Any):
        super().__init__(**settings)
        self.patience, self.weight_decay = patience, weight_decay

    def fit(self, train_set: Any, val_set: Any) -> "FullSoftmaxSASRec":
        """Trains on every prefix of the training sessions, and keeps the epoch that is best on validation."""
        NextItemRecommender.fit(self, train_set, val_set)
        torch.manual_seed(self.seed)
        self.pad_idx = self.total_items
        self.model = SASRecModel(
            self.total_items,
            self.embedding_dim,
            self.max_len,
            self.num_blocks,
            self.num_heads,
            self.use_pos_emb,
            self.use_biases,
            self.dropout,
            self.pad_idx,
            device=self.device,
        )
        optimizer = torch.optim.AdamW(
            self.model.parameters(), self.learning_rate, betas=(0.9, 0.98), weight_decay=self.weight_decay
        )
        histories, targets = self._examples(train_set)
        checked = self._last_of_sessions(val_set)
        best, waited, kept = -1.0, 0, {}
        for _ in range(self.n_epochs):
            self.model.train()
            for rows in torch.randperm(len(targets)).split(self.batch_size):
                loss = F.cross_entropy(self._logits(histories[rows]), targets[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            ndcg = self._ndcg(*checked)
            waited = 0 if ndcg > best else waited + 1
            if ndcg > best:
                best, kept = ndcg, {name: value.clone() for name, value in self.model.state_dict().items()}
            if waited == self.patience:
                break
        self.model.load_state_dict(kept)
        return self

    @torch.no_grad()
    def score_all(self, histories: Sequence[Sequence[int]]) -> np.ndarray:
        """Log-probabilities of all items, `(histories, items)`."""
        self.model.eval()
        parts = self._padded(histories).split(SCORED_TOGETHER)
        return torch.cat([self._logits(part).log_softmax(-1).cpu() for part in parts]).numpy()

    def _logits(self, histories: torch.Tensor) -> torch.Tensor:
        every = torch.arange(self.total_items, device=histories.device)
        return self.model(None, histories, every)

    def _examples(self, sessions: Any) -> tuple[torch.Tensor, torch.Tensor]:
        batches = session_seq_iter(sessions, self.pad_idx, SCORED_TOGETHER, self.max_len, n_sample=0, shuffle=False)
        _, histories, targets = zip(*batches)
        return tuple(torch.from_numpy(np.concatenate(part)).to(self.device) for part in (histories, targets))

    def _last_of_sessions(self, sessions: Any) -> tuple[list[list[int]], torch.Tensor]:
        items = sessions.uir_tuple[1]
        rows = [items[places].tolist() for places in sessions.sessions.values()]
        return [row[:-1] for row in rows], torch.tensor([row[-1] for row in rows])

    def _padded(self, histories: Sequence[Sequence[int]]) -> torch.Tensor:
        padded = np.full((len(histories), self.max_len), self.pad_idx)
        for row, history in enumerate(histories):
            last = history[-self.max_len :]
            padded[row, self.max_len - len(last) :] = last
        return torch.from_numpy(padded).to(self.device)

    def _ndcg(self, histories: Sequence[Sequence[int]], targets: torch.Tensor) -> float:
        scores = torch.from_numpy(self.score_all(histories))
        return ndcg_at_k((scores > scores.gather(1, targets[:, None])).sum(1), 10).item()
