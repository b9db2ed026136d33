"""
The field's sequential recommenders through Cornac (extra `[baselines]`), trained on a data set of ours.

Cornac gets the catalogue in index order, so that its scores have our columns; a training session is what one user
chose, a validation session a row's history and its target. It picks the epoch by NDCG@10 on validation rows.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import draw_rows
from datasets import Dataset

from tsrec_hf import RecommendationDataset, SIDIndex


MAX_HISTORY = 10
# Validation rows that pick the epoch of Cornac's own models, which rank one row at a time: a fixed sample.
VALIDATED_ROWS = 1000
# Scores of the rows of a split, `(rows, items)`: higher is better.
Scorer = Callable[[Dataset], np.ndarray]

BEST_EPOCH = {"model_selection": "best", "val_metric": "ndcg", "val_k": 10}
# Settings that Cornac ships or recommends, except for the number of epochs, of which validation picks the best one.
SETTINGS: dict[str, dict[str, Any]] = {
    "item-knn": {"k": 100},
    "fpmc": {"n_epochs": 20, "val_eval_every": 2, **BEST_EPOCH},
    "gru4rec": {"n_epochs": 20, "val_eval_every": 2, "dropout_p_embed": 0.2, "dropout_p_hidden": 0.2, **BEST_EPOCH},
    "bert4rec": {"n_epochs": 30, "val_eval_every": 2, "dropout": 0.5, **BEST_EPOCH},
    "sasrec-bce": {"n_epochs": 30, "val_eval_every": 2, "dropout": 0.5, "loss": "bce", **BEST_EPOCH},
    "sasrec-sampled": {"n_epochs": 30, "val_eval_every": 2, "dropout": 0.5, "loss": "ce", **BEST_EPOCH},
    "sasrec": {"n_epochs": 80, "embedding_dim": 64, "num_heads": 2, "batch_size": 256, "dropout": 0.5, "patience": 4},
    "tiger": {"n_epochs": 50, "val_eval_every": 5, "val_sample": 500},
}
QUICK = {"n_epochs": 1, "val_eval_every": 1, "val_sample": 50}


def cornac_is_installed() -> bool:
    """Whether the extra `[baselines]` is there."""
    return importlib.util.find_spec("cornac") is not None


def settings_of(name: str, quick: bool = False) -> dict[str, Any]:
    """What a model is trained with; `quick` trains for one epoch, to show that it runs."""
    settings = dict(SETTINGS[name])
    if quick:
        settings |= {key: value for key, value in QUICK.items() if key in settings}
    return settings


def fit_cornac_model(name: str, dataset: RecommendationDataset, seed: int, quick: bool = False) -> Scorer:
    """Trains a model of `SETTINGS`, and returns what scores the catalogue for rows."""
    from cornac.models import FPMC, BERT4Rec, GRU4Rec, ItemKNN, SASRec

    settings = settings_of(name, quick) | {"seed": seed, "verbose": False}
    max_history = dataset.max_history or MAX_HISTORY
    # Ours ranks many rows at a time, Cornac's models one.
    num_checked = len(dataset.valid) if name == "sasrec" else min(VALIDATED_ROWS, len(dataset.valid))
    train, valid = _cornac_splits(dataset, draw_rows(dataset.valid, num_checked), seed)
    torch.manual_seed(seed)
    if name == "item-knn":
        return _history_knn(ItemKNN(**settings).fit(train), dataset.sid_index)
    if name == "sasrec":
        from full_softmax import FullSoftmaxSASRec

        model = FullSoftmaxSASRec(max_len=max_history, **settings)
    elif name == "tiger":
        from sid_models import make_tiger

        model = make_tiger(dataset, train, max_history, settings)
    elif name == "fpmc":
        model = FPMC(**settings)
    elif name == "gru4rec":
        # Its parallel sessions are as many as the batch from the start.
        model = GRU4Rec(batch_size=min(512, train.num_sessions), **settings)
    else:
        model = (BERT4Rec if name == "bert4rec" else SASRec)(max_len=max_history, **settings)
    model.fit(train, valid)
    return lambda rows: _scores(model, rows, dataset.sid_index, max_history)


def _sessions(rows: Dataset) -> list[tuple[str, list[str]]]:
    """Chains the rows of a user whose history goes on where the one before ended: user and items of each chain."""
    sessions: list[tuple[str, list[str]]] = []
    last: dict[str, list[str]] = {}
    for user, history, target in zip(rows["user_id"][:], rows["history"][:], rows["target"][:]):
        items = last.get(user)
        if items is None or not history or items[-len(history) :] != history:
            items = last[user] = list(history)
            sessions.append((user, items))
        items.append(target)
    return sessions


def _cornac_splits(dataset: RecommendationDataset, checked: Dataset, seed: int) -> tuple[Any, Any]:
    """The training split and the validation rows `checked` as Cornac's sessions."""
    from cornac.data import SequentialDataset

    assert dataset.sid_index is not None
    columns = (checked[name][:] for name in ("user_id", "history", "target"))
    valid = [(user, [*history, target]) for user, history, target in zip(*columns)]
    users: dict[str, int] = {}
    items = {item: number for number, item in enumerate(dataset.sid_index.item_ids)}
    splits = []
    for sessions in (_sessions(dataset.train), valid):
        rows = [
            (user, number, item, place)
            for number, (user, session) in enumerate(sessions)
            for place, item in enumerate(session)
        ]
        splits.append(
            SequentialDataset.build(
                rows, "USIT", global_uid_map=users, global_iid_map=items, global_sid_map={}, seed=seed
            )
        )
    return splits[0], splits[1]


def _scores(model: Any, rows: Dataset, index: SIDIndex, max_history: int) -> np.ndarray:
    histories = [index.positions_of(history[-max_history:]) for history in rows["history"][:]]
    if hasattr(model, "score_all"):
        return model.score_all(histories)
    users = [model.uid_map.get(user, -1) for user in rows["user_id"][:]]
    return np.stack([model.score(user, list(history)) for user, history in zip(users, histories)]).astype(np.float32)


def _history_knn(model: Any, index: SIDIndex) -> Scorer:
    """
    Sums the similarities of the items of a history to their neighbours. Cornac's own score divides by the sum of the
    similarities, which makes all neighbours equal where there are no ratings.
    """
    from scipy.sparse import csr_matrix

    def score(rows: Dataset) -> np.ndarray:
        histories = [list(index.positions_of(history)) for history in rows["history"][:]]
        columns = np.array([item for history in histories for item in history], dtype=np.int64)
        offsets = np.cumsum([0, *map(len, histories)])
        taken = csr_matrix((np.ones(len(columns)), columns, offsets), shape=(len(rows), len(index)))
        return np.log((taken @ model.sim_mat.T).toarray().astype(np.float32) + 1e-6)

    return score
