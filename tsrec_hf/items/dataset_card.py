"""The card of a prepared data set, by which the Hub and `load_dataset` find its tables."""

from typing import TYPE_CHECKING, Any

from huggingface_hub import DatasetCard, DatasetCardData


if TYPE_CHECKING:
    from .dataset import RecommendationDataset


UNNAMED_DATASET = "your-name/your-data"
SPLIT_OF = {"train": "train", "validation": "valid", "test": "test"}
CONFIGS = [
    {
        "config_name": "interactions",
        "data_files": [{"split": split, "path": f"{table}.parquet"} for split, table in SPLIT_OF.items()],
        "default": True,
    },
    {"config_name": "items", "data_files": [{"split": "train", "path": "items.parquet"}]},
]
TEXT = """---
{metadata}
---

# {name}

A catalogue and next-item rows, prepared for generative recommendation with semantic IDs (SIDs).

| | rows |
| --- | --- |
{counts}

{index} Histories hold {history}.

```python
from datasets import load_dataset

rows = load_dataset("{repo_id}", "interactions")           # `history` (item ids, oldest first), `target`, `user_id`
items = load_dataset("{repo_id}", "items", split="train")  # `item_id`, `title`, ...
```

With the package tsrec_hf, SIDs included:

```python
from tsrec_hf import RecommendationDataset

dataset = RecommendationDataset.from_hub("{repo_id}")
```

Who may use the data, and where they come from, is for whoever publishes them to add here.
"""


def build_dataset_card(
    dataset: "RecommendationDataset", repo_id: str = UNNAMED_DATASET, **card_data: Any
) -> DatasetCard:
    r"""
    Builds the card of a prepared data set.

    Args:
        dataset ([`RecommendationDataset`]):
            The data set.
        repo_id (`str`, *optional*):
            Hub repository that the snippets load from.
        card_data (*optional*):
            Metadata for [`~huggingface_hub.DatasetCardData`]: `license`, `language`, `tags`, ...

    Returns:
        [`~huggingface_hub.DatasetCard`]: `str(card)` is the text.

    Example:

    ```python
    >>> from tsrec_hf.items import build_dataset_card

    >>> card = build_dataset_card(dataset, "me/tools", license="mit")
    >>> [config["config_name"] for config in card.data.configs], card.data.license
    (['interactions', 'items'], 'mit')
    ```
    """
    tags = list(dict.fromkeys(["tsrec", "recommendation", *(card_data.pop("tags", None) or [])]))
    data = DatasetCardData(configs=CONFIGS, tags=tags, **card_data)
    counts = "\n".join(f"| {name} | {len(getattr(dataset, name)):,} |" for name in ("items", *SPLIT_OF.values()))
    index = dataset.sid_index
    told = (
        "No SIDs were made." if index is None else f"SIDs of {index.num_levels} levels, index `{index.fingerprint}`."
    )
    history = "all earlier items" if dataset.max_history is None else f"the last {dataset.max_history} items"
    name = " ".join((dataset.name or repo_id.split("/")[-1]).split())
    return DatasetCard(
        TEXT.format(metadata=data.to_yaml(), name=name, counts=counts, index=told, history=history, repo_id=repo_id)
    )
