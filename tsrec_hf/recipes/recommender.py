"""`Recommender`: model, tokenizer, descriptions and data as one object, made of two tables in one call."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset
from huggingface_hub import HfApi

from tsrec_hf.evaluation import compare_with_baselines
from tsrec_hf.evaluation.comparison import Comparison
from tsrec_hf.hub import load_recommender
from tsrec_hf.items import RecommendationDataset, open_dataset
from tsrec_hf.models import Recommendation, TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.models.checking_tsrec import checks_types
from tsrec_hf.semantics import TokenSemantics

from .options import SEMANTICS_FILE, TrainOptions


class Recommender:
    r"""
    A recommender as it is used: the model, its tokenizer, what its tokens mean, and the data set it was trained on.

    Args:
        model ([`TSRecForCausalLM`]):
            The model.
        tokenizer ([`TSRecTokenizer`]):
            Its tokenizer, with the SID index and perhaps a prior.
        semantics ([`TokenSemantics`], *optional*):
            What the tokens of the SIDs mean.
        dataset ([`RecommendationDataset`], *optional*):
            The data set, for [`Recommender.evaluate`].

    Example:

    ```python
    >>> from tsrec_hf import Recommender

    >>> recommender = Recommender(model, tokenizer, dataset=dataset)
    >>> [len(found) for found in recommender.recommend([["hammer"], ["apple", "pear"]], top_k=3)]
    [3, 3]
    ```
    """

    def __init__(
        self,
        model: TSRecForCausalLM,
        tokenizer: TSRecTokenizer,
        semantics: TokenSemantics | None = None,
        dataset: RecommendationDataset | None = None,
    ) -> None:
        self.model, self.tokenizer, self.semantics, self.dataset = model, tokenizer, semantics, dataset

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.tokenizer.sid_index})"

    @classmethod
    @checks_types
    def from_tables(
        cls,
        items: str | Path | pd.DataFrame | Dataset,
        interactions: str | Path | pd.DataFrame | Dataset | None = None,
        output_dir: str | Path = "outputs/recommender",
        **options: Any,
    ) -> "Recommender":
        r"""
        Makes a recommender of two tables: reads, cleans, splits, codes, describes, trains, fits the prior, evaluates.

        The command `tsrec train` does the same. A second call with the same folder does only what has other inputs.

        Args:
            items (`str`, `Path`, `pandas.DataFrame` or `datasets.Dataset`):
                One row per item: `item_id`, `title` and perhaps `description`.
            interactions (`str`, `Path`, `pandas.DataFrame` or `datasets.Dataset`, *optional*):
                One row per interaction: `user_id`, `item_id` and `timestamp`. Left out with a `format` whose folder
                holds them too; `items` is that folder.
            output_dir (`str` or `Path`, *optional*, defaults to `"outputs/recommender"`):
                Folder of the recommender, its data, figures, plot and card.
            options (*optional*):
                Options of `tsrec train` by their names: `minutes`, `model_name_or_path`, `item_columns`, ...

        Returns:
            [`Recommender`]: The recommender.

        Raises:
            `ValueError`: faults of the tables, all of them in one message, or an unknown option.

        Example:

        ```python
        >>> recommender = Recommender.from_tables("items.csv", "log.csv", "outputs/shop")  # doctest: +SKIP
        >>> recommender.recommend([["117", "118"]], top_k=5)  # doctest: +SKIP
        ```
        """
        from .from_tables import main

        folder = Path(output_dir)
        unknown = sorted(set(options) - set(TrainOptions.__dataclass_fields__))
        if unknown:
            raise ValueError(
                f"Expected options of `tsrec train`, but found {unknown}. `tsrec train --help` lists them."
            )
        return main(
            TrainOptions(
                items_file=_as_file(items, folder, "items"),
                interactions_file=None if interactions is None else _as_file(interactions, folder, "interactions"),
                output_dir=str(folder),
                **options,
            )
        )

    @classmethod
    @checks_types
    def from_pretrained(cls, name_or_path: str | Path, revision: str | None = None, **kwargs: Any) -> "Recommender":
        """
        Loads a recommender from a folder or the Hub.

        Args:
            name_or_path (`str` or `Path`):
                Folder or Hub id of a checkpoint or an adapter.
            revision (`str`, *optional*):
                Branch, tag or commit on the Hub.
            kwargs (*optional*):
                As in [`load_recommender`]: `dtype`, ...

        Example:

        ```python
        >>> import tempfile
        >>> from tsrec_hf import Recommender

        >>> folder = Recommender(model, tokenizer).save_pretrained(tempfile.mkdtemp())
        >>> Recommender.from_pretrained(folder).tokenizer.sid_index == sid_index
        True
        ```
        """
        model, tokenizer = load_recommender(name_or_path, revision, **kwargs)
        folder = Path(name_or_path)
        semantics = folder / SEMANTICS_FILE
        return cls(
            model,
            tokenizer,
            TokenSemantics.from_json(semantics) if semantics.is_file() else None,
            open_dataset(folder / "data") if (folder / "data" / "dataset.json").is_file() else None,
        )

    def recommend(
        self, histories: Sequence[Sequence[str]], top_k: int = 10, **kwargs: Any
    ) -> list[list[Recommendation]]:
        """
        Recommends items, with the checkpoint's prior where it has one.

        Args:
            histories (`Sequence[Sequence[str]]`):
                Item ids of each user, oldest first.
            top_k (`int`, *optional*, defaults to `10`):
                Number of items for each.
            kwargs (*optional*):
                As in [`TSRecForCausalLM.recommend`]: `exclude_history`, `allowed_items`, ...

        Returns:
            `list[list[Recommendation]]`: The best items of each user, best first.
        """
        return self.model.recommend(self.tokenizer, histories, top_k=top_k, **kwargs)

    def evaluate(self, split: str = "test", num_rows: int | None = None, **kwargs: Any) -> Comparison:
        """
        Compares the recommender with popularity and next-item counts.

        Args:
            split (`str`, *optional*, defaults to `"test"`):
                `"train"`, `"valid"` or `"test"`.
            num_rows (`int`, *optional*):
                Rows drawn from it; all by default.
            kwargs (*optional*):
                As in [`compare_with_baselines`]: `num_beams`, `exclude_history`, ...

        Returns:
            [`Comparison`]: Printed, a table with the differences below it.

        Raises:
            `ValueError`: the data set is not known.

        Example:

        ```python
        >>> from tsrec_hf import Recommender

        >>> list(Recommender(model, tokenizer, dataset=dataset).evaluate(num_beams=7).results)
        ['popularity', 'next-item counts', 'model']
        ```
        """
        if self.dataset is None or split not in ("train", "valid", "test"):
            raise ValueError(
                f"Expected a data set and a split of train, valid and test, but found {self.dataset} and {split!r}. "
                "Pass `Recommender(model, tokenizer, dataset=open_dataset(folder))`."
            )
        rows = getattr(self.dataset, split)
        if num_rows is not None and num_rows < len(rows):
            rows = rows.shuffle(seed=0).select(range(num_rows)).flatten_indices()
        return compare_with_baselines(self.model, self.tokenizer, rows, self.dataset.train, **kwargs)

    def save_pretrained(self, directory: str | Path) -> Path:
        """Writes model, tokenizer with index and prior, and descriptions to a folder, which is returned."""
        folder = Path(directory)
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        if self.semantics is not None:
            self.semantics.to_json(folder / SEMANTICS_FILE)
        return folder

    def push_to_hub(
        self, repo_id: str, private: bool = False, commit_message: str = "Recommender", token: str | None = None
    ) -> str:
        """
        Sends the whole recommender to the Hub: model, card, tokenizer, index, prior and descriptions.

        Args:
            repo_id (`str`):
                Repository, made if it is absent.
            private (`bool`, *optional*, defaults to `False`):
                Whether a new repository is private.
            commit_message (`str`, *optional*):
                Message of the commits.
            token (`str`, *optional*):
                Token of the Hub; the one of `hf auth login` by default.

        Returns:
            `str`: The address of the repository.
        """
        api = HfApi(token=token)
        address = str(api.create_repo(repo_id, private=private, exist_ok=True))
        for part in (self.model, self.tokenizer):
            part.push_to_hub(repo_id, commit_message=commit_message, token=token)  # type: ignore[arg-type]
        if self.semantics is not None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, SEMANTICS_FILE)
                self.semantics.to_json(path)
                api.upload_file(
                    repo_id=repo_id,
                    path_or_fileobj=path,
                    path_in_repo=SEMANTICS_FILE,
                    commit_message=commit_message,
                )
        return address


def _as_file(table: str | Path | pd.DataFrame | Dataset, folder: Path, name: str) -> str:
    """The path of a table; one in memory is written, so that a later run can tell whether it has changed."""
    if isinstance(table, (str, Path)):
        return str(table)
    path = folder / "work" / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(table, pd.DataFrame):
        table.to_parquet(path, index=False)
    else:
        table.to_parquet(path)
    return str(path)
