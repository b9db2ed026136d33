"""
What a page shows beside a recommender: some real histories with what was taken next, and fields of the items. It is a
small file of the checkpoint, since whoever opens the page has neither the interactions nor the table of items.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tsrec_hf.models.checking_tsrec import checks_types
from tsrec_hf.models.companions_tsrec import SHOWCASE_FILE
from tsrec_hf.models.json_files_tsrec import read_json
from tsrec_hf.models.replacing_tsrec import write_text

from .dataset import RecommendationDataset


# What is shown of an item, and the columns of tables that hold it, the first one that is there.
FIELDS = {
    "year": ("year", "release_year"),
    "genre": ("genre", "genres", "class", "categories", "category"),
    "brand": ("brand", "store"),
}
YEAR = re.compile(r"\b(?:18|19|20)\d\d\b")
# Characters of a field: some tables have a path of categories for each.
MOST_CHARACTERS = 80
# Less than this is no history that a list could be judged by.
SHORTEST = 3


class ShownUser(NamedTuple):
    """The last items of a real history, oldest first, and what the user took next."""

    history: list[str]
    target: str


@dataclass(frozen=True)
class Showcase:
    r"""
    Real histories and fields of items, for a page.

    Attributes:
        fields (`dict[str, dict[str, str]]`): For items that have them: `year`, `genre`, `brand`.
        users (`list[ShownUser]`): Histories of popular items. They carry no ids of users, but they are what somebody
            did: publish them where the interactions may be published.

    Example:

    ```python
    >>> from tsrec_hf import Showcase

    >>> showcase = Showcase.draw(dataset)
    >>> showcase.users[0]
    ShownUser(history=['apple', 'pear', 'bread'], target='cheese')
    ```
    """

    fields: dict[str, dict[str, str]]
    users: list[ShownUser]

    @classmethod
    @checks_types
    def draw(
        cls, dataset: RecommendationDataset, split: str = "test", num_users: int = 24, length: int = 8
    ) -> "Showcase":
        """
        Takes the histories whose items were taken most often in training: those are known to whoever looks at them.
        What the model makes of them plays no part.

        Args:
            dataset ([`RecommendationDataset`]):
                Data set of the recommender.
            split (`str`, *optional*, defaults to `"test"`):
                Split of the histories: one that nothing was trained on.
            num_users (`int`, *optional*, defaults to `24`):
                Most histories: one a user, each with another item that was taken next, which is new to the user.
            length (`int`, *optional*, defaults to `8`):
                Last items kept of a history.
        """
        rows = getattr(dataset, split).select_columns(["user_id", "history", "target"])
        taken, numbers = np.unique(dataset.train["target"][:], return_counts=True)
        popularity = dict(zip(taken.tolist(), np.log1p(numbers).tolist()))
        candidates = []
        for user, whole, target in zip(rows["user_id"][:], rows["history"][:], rows["target"][:]):
            if len(whole) >= SHORTEST and target not in whole:
                shown = ShownUser(whole[-length:], target)
                known = [popularity.get(item, 0.0) for item in (*shown.history, target)]
                candidates.append((sum(known) / len(known), user, shown))
        users: list[ShownUser] = []
        seen: set[str] = set()
        for _, user, shown in sorted(candidates, key=lambda one: -one[0]):
            names = {f"user {user}", f"target {shown.target}"}
            if len(users) < num_users and not names & seen:
                users.append(shown)
                seen |= names
        return cls(_fields_of(dataset.items), users)

    @checks_types
    def save(self, folder: str | Path) -> Path:
        """Writes `showcase.json` into a folder, that of the checkpoint, and returns its path."""
        path = Path(folder, SHOWCASE_FILE)
        document = {"items": self.fields, "users": [user._asdict() for user in self.users]}
        write_text(path, json.dumps(document, ensure_ascii=False))
        return path

    @classmethod
    @checks_types
    def load(cls, path: str | Path) -> "Showcase":
        """
        Reads what [`Showcase.save`] wrote.

        Raises:
            `FileNotFoundError`: no such file. `ValueError`: a file of another form.
        """
        document = read_json(path)
        try:
            fields = {
                item: {name: own[name] for name in FIELDS if name in own.keys()}
                for item, own in document["items"].items()
            }
            users = [ShownUser(list(user["history"]), user["target"]) for user in document["users"]]
        except (AttributeError, KeyError, TypeError):
            texts: list[Any] = [None]
        else:
            texts = [text for own in fields.values() for text in own.values()]
            texts += [item for user in users for item in (*user.history, user.target)]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(
                f'Expected "items" (item id to texts) and "users" ("history" and "target") in {path}, but found '
                "another form. Write it again by `Showcase.draw(dataset).save(checkpoint)`, or remove it."
            )
        return cls(fields, users)


def _fields_of(items: Any) -> dict[str, dict[str, str]]:
    """The fields of the items that have any, by item id."""
    fields: dict[str, dict[str, str]] = {item: {} for item in items["item_id"][:]}
    for name, columns in FIELDS.items():
        for column in [one for one in columns if one in items.column_names][:1]:
            for own, value in zip(fields.values(), items[column][:]):
                parts = value if isinstance(value, list) else [value]
                text = " ".join(", ".join(str(part) for part in parts if part is not None).split())
                if name == "year":
                    text = "".join(YEAR.findall(text)[:1])
                if text:
                    own[name] = text[:MOST_CHARACTERS]
    return {item: own for item, own in fields.items() if own}
