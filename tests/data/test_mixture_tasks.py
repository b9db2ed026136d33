"""Tasks of the user in the mixture."""

import dataclasses
from collections import Counter
from dataclasses import dataclass

import pytest
from datasets import Dataset

from tsrec_hf.data import AlignmentTask, PromptBuilder, SequenceTask, Task, TitleTask, build_sft_mixture
from tsrec_hf.models import TSRecTokenizer


pytestmark = pytest.mark.usefixtures("datasets_cache")


@dataclass
class Descriptions:
    """Description of an item from its SID; of the split's targets alone."""

    name: str = "descriptions"
    weight: float = 1.0
    first_word: str = "a"

    def rows(self, dataset, split, tokenizer):
        prompts = PromptBuilder(tokenizer)
        rows = [
            {"prompt": f"{prompts.sid(item)} is like :", "completion": prompts.text_answer(f"{self.first_word} tool")}
            for item in getattr(dataset, split)["target"]
        ]
        return Dataset.from_list(rows)


@dataclass
class Tokens:
    """Gives what it holds."""

    columns: dict
    name: str = "tokens"
    weight: float = 1.0

    def rows(self, dataset, split, tokenizer):
        return Dataset.from_dict(self.columns)


def test_a_task_of_text_by_hand(dataset, tokenizer):
    assert isinstance(Descriptions(), Task)
    rows = build_sft_mixture(dataset, None, tokenizer, tasks=["sequence", Descriptions()])
    assert Counter(rows["task"]) == {"sequence": 3, "descriptions": 6}
    ids = tokenizer.convert_tokens_to_ids(["<a_0>", "<b_0>", "<c_1>", "is", "like", ":", "a", "<unk>", "</s>"])
    [saw] = [row for row in rows if row["input_ids"][:3] == ids[:3] and row["task"] == "descriptions"]
    assert saw == {"input_ids": ids, "labels": [-100] * 6 + ids[6:], "task": "descriptions"}
    # The split is the task's.
    valid = build_sft_mixture(dataset, None, tokenizer, tasks=[Descriptions()], split="valid")
    assert Counter(valid["task"]) == {"descriptions": 2}


def test_a_task_of_tokens_keeps_them(dataset, tokenizer):
    columns = {"input_ids": [[5, 6, 7]], "labels": [[-100, 6, -100]], "task": ["wrong"], "more": [1]}
    rows = build_sft_mixture(dataset, None, tokenizer, tasks=[Tokens(columns)])
    assert rows.to_list() == [{"input_ids": [5, 6, 7], "labels": [-100, 6, -100], "task": "tokens"}]


def test_the_weight_is_the_tasks_unless_weights_names_it(dataset, tokenizer):
    for weight, weights, expected in ((2.0, None, 12), (0.5, {}, 3), (0.5, {"descriptions": 1}, 6), (1.5, None, 9)):
        tasks = ["sequence", Descriptions(weight=weight)]
        rows = build_sft_mixture(dataset, None, tokenizer, tasks=tasks, weights=weights)
        assert Counter(rows["task"]) == {"sequence": 3, "descriptions": expected}


def test_built_in_tasks_as_objects_are_those_named(dataset, semantics, tokenizer):
    named = build_sft_mixture(
        dataset, semantics, tokenizer, tasks=["sequence", "alignment"], sequence_mode="window", keywords=True
    )
    tasks = [SequenceTask("window"), AlignmentTask(semantics, keywords=True)]
    objects = build_sft_mixture(dataset, None, tokenizer, tasks=tasks)
    assert objects.to_dict() == named.to_dict() and objects._fingerprint == named._fingerprint
    wide = build_sft_mixture(dataset, None, tokenizer, tasks=[SequenceTask("window", weight=2)])
    assert len(wide) == 12


def test_rows_of_a_task_are_never_stale(dataset, tokenizer):
    """The cache is keyed by the rows themselves: whatever a task reads, from its fields or from elsewhere."""
    task = Descriptions()
    first = build_sft_mixture(dataset, None, tokenizer, tasks=[task])
    again = build_sft_mixture(dataset, None, tokenizer, tasks=[Descriptions()])
    assert again._fingerprint == first._fingerprint and again.cache_files == first.cache_files
    task.first_word = "red"
    changed = build_sft_mixture(dataset, None, tokenizer, tasks=[task])
    red = tokenizer.convert_tokens_to_ids("red")
    assert all(red in ids for ids in changed["input_ids"]) and not any(red in ids for ids in first["input_ids"])
    # Columns that no built-in task reads.
    words = iter(["steel", "hand"])

    class Elsewhere(Descriptions):
        def rows(self, dataset, split, tokenizer):
            self.first_word = next(words)
            return super().rows(dataset, split, tokenizer)

    for word in ("steel", "hand"):
        rows = build_sft_mixture(dataset, None, tokenizer, tasks=[Elsewhere()])
        assert all(tokenizer.convert_tokens_to_ids(word) in ids for ids in rows["input_ids"])


def test_a_subclass_of_a_built_in_task_is_a_task_of_the_user(dataset, tokenizer):
    class FirstTitle(TitleTask):
        def rows(self, dataset, split, tokenizer):
            return super().rows(dataset, split, tokenizer).select([0])

    assert len(build_sft_mixture(dataset, None, tokenizer, tasks=["title"])) == 16
    assert len(build_sft_mixture(dataset, None, tokenizer, tasks=[FirstTitle()])) == 1


def test_max_history_is_part_of_the_key(dataset, backbone_dir):
    lengths = []
    for max_history in (1, 10):
        tokenizer = TSRecTokenizer.from_backbone(backbone_dir, dataset.sid_index, max_history=max_history)
        rows = build_sft_mixture(dataset, None, tokenizer, tasks=["sequence"], sequence_mode="window")
        lengths.append(max(len(ids) for ids in rows["input_ids"]))
    assert lengths[0] < lengths[1]


def test_histories_of_another_length_than_the_tokenizers_are_refused(dataset, backbone_dir):
    object.__setattr__(dataset, "max_history", 30)
    tokenizer = TSRecTokenizer.from_backbone(backbone_dir, dataset.sid_index)
    with pytest.raises(ValueError, match=r"at most 10 items, .* `max_history=30`. Make the tokenizer with .*=30"):
        build_sft_mixture(dataset, None, tokenizer, tasks=["sequence"])
    fitting = TSRecTokenizer.from_backbone(backbone_dir, dataset.sid_index, max_history=30)
    assert len(build_sft_mixture(dataset, None, fitting, tasks=["sequence"])) == 3
    object.__setattr__(dataset, "max_history", None)
    assert len(build_sft_mixture(dataset, None, tokenizer, tasks=["sequence"])) == 3


def test_semantics_check_the_index(dataset, semantics, tokenizer, monkeypatch):
    seen = []
    monkeypatch.setattr(type(semantics), "check_index", lambda self, index: seen.append(index), raising=False)
    build_sft_mixture(dataset, semantics, tokenizer, tasks=["sequence"])
    assert seen == [tokenizer.sid_index]

    def refuse(self, index):
        raise ValueError("the semantics belong to another index")

    monkeypatch.setattr(type(semantics), "check_index", refuse)
    with pytest.raises(ValueError, match="belong to another index"):
        build_sft_mixture(dataset, semantics, tokenizer)


def test_errors(dataset, semantics, tokenizer):
    def mix(*tasks, **kwargs):
        return build_sft_mixture(dataset, semantics, tokenizer, tasks=tasks, **kwargs)

    with pytest.raises(ValueError, match=r"tasks of different names, but found \['title'\] more than once"):
        mix("title", Descriptions(name="title"))
    with pytest.raises(ValueError, match=r"`weights` among \('title', .* but found \['descriptions'\]. Add the task"):
        mix("title", weights={"descriptions": 2})
    assert len(mix("title", weights={"sequence": 2})) == 16
    for task in (
        3,
        Descriptions,
        dataclasses.make_dataclass("NoRows", ["name", "weight"])("a", 1),
        Tokens({}, name=3),
    ):
        with pytest.raises(TypeError, match=r"objects with a `name`, a `weight` and a method `rows\(dataset, split"):
            mix(task)
    with pytest.raises(ValueError, match="finite weights of at least 0, but found .*-1"):
        mix(Descriptions(weight=-1))
    with pytest.raises(ValueError, match=r"'tokens' to give .* but found \['prompt'\]. Return one of the two"):
        mix(Tokens({"prompt": ["a"]}))
    chat = [[{"role": "user", "content": "a"}]]
    with pytest.raises(
        ValueError, match=r"completions of the task 'tokens' as strings, but found .* write their text"
    ):
        mix(Tokens({"prompt": chat, "completion": chat}))
    with pytest.raises(ValueError, match=r"`labels` as long as `input_ids` .* 'tokens', but found 1 and 2 in row 0"):
        mix(Tokens({"input_ids": [[5, 6]], "labels": [[6]]}))

    class Lists(Descriptions):
        def rows(self, dataset, split, tokenizer):
            return []

    with pytest.raises(ValueError, match=r"'descriptions' to give .* but found `list`"):
        mix(Lists())
