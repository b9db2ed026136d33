import dataclasses
from collections import Counter

import pytest
from datasets import Dataset

from tsrec_hf.data import PromptBuilder, build_sequence_rows, build_sft_mixture
from tsrec_hf.models import SIDIndex, TSRecTokenizer
from tsrec_hf.semantics import TokenDescription, TokenSemantics


pytestmark = pytest.mark.usefixtures("datasets_cache")

ALL = {"sequence": 3, "title": 16, "history_title": 6, "alignment": 14}


def counts(rows):
    return dict(Counter(rows["task"]))


def keyed(rows):
    """Rows as a multiset."""
    return Counter((tuple(row["input_ids"]), tuple(row["labels"]), row["task"]) for row in rows)


def test_all_tasks_once(dataset, semantics, tokenizer):
    rows = build_sft_mixture(dataset, semantics, tokenizer)
    assert rows.column_names == ["input_ids", "labels", "task"]
    assert counts(rows) == ALL
    sequence = rows.filter(lambda row: row["task"] == "sequence")
    assert keyed(sequence) == keyed(build_sequence_rows(dataset.train, tokenizer))


def test_labels_stand_on_completions_alone(dataset, semantics, tokenizer):
    rows = build_sft_mixture(dataset, semantics, tokenizer, keywords=True)
    sids = {token_id for level in tokenizer.sid_token_ids for token_id in level}
    ends = Counter()
    for row in rows:
        labelled = [label != -100 for label in row["labels"]]
        start = labelled.index(True)
        answer = row["input_ids"][start:]
        assert all(labelled[start:]) and row["labels"][start:] == answer
        in_sids = set(answer) <= sids
        # Answers in words end with the end token, answers in SID tokens do not hold it.
        assert answer.count(tokenizer.eos_token_id) == (0 if in_sids else 1)
        assert in_sids or answer[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in row["input_ids"][:start]
        ends[row["task"], in_sids] += 1
    assert ends == {
        ("sequence", True): 3,
        ("title", True): 8,
        ("title", False): 8,
        ("history_title", False): 6,
        ("alignment", True): 7,
        ("alignment", False): 14,
    }


def test_rows_of_text_by_hand(dataset, semantics, tokenizer):
    rows = build_sft_mixture(dataset, semantics, tokenizer, tasks=("title", "alignment"))
    ids = tokenizer.convert_tokens_to_ids
    sid = ids(["<a_0>", "<b_0>", "<c_0>"])
    words = {
        "title": sid + ids(["is", "titled", ":", "claw", "hammer", "</s>"]),
        "alignment": ids(["<a_0>", "means", ":", "tools", "items", "</s>"]),
    }
    hand = Counter(
        [
            (tuple(words["title"]), (-100,) * 6 + tuple(words["title"][6:]), "title"),
            (tuple(words["alignment"]), (-100,) * 3 + tuple(words["alignment"][3:]), "alignment"),
            # "Which" and "It" are unknown to the tiny vocabulary.
            (
                tuple(ids(["<unk>", "token", "means", ":", "tools", "items", "<unk>", "is", ":", "<a_0>"])),
                (-100,) * 9 + (ids("<a_0>"),),
                "alignment",
            ),
        ]
    )
    assert hand <= keyed(rows)


def test_items_with_the_same_title_and_sid_keep_their_rows(dataset, semantics, tokenizer):
    same = dataclasses.replace(dataset, items=dataset.items.map(lambda item: {"title": "steel"}))
    assert counts(build_sft_mixture(same, semantics, tokenizer)) == ALL


def test_weights_repeat_draw_and_leave_out(dataset, semantics, tokenizer):
    once = build_sft_mixture(dataset, semantics, tokenizer)
    weights = {"title": 0.5, "sequence": 2, "alignment": 0}
    rows = build_sft_mixture(dataset, semantics, tokenizer, weights=weights)
    assert counts(rows) == {"title": 8, "sequence": 6, "history_title": 6}

    def of(task, rows):
        return keyed(row for row in rows if row["task"] == task)

    assert of("sequence", rows) == Counter({row: 2 * number for row, number in of("sequence", once).items()})
    assert of("history_title", rows) == of("history_title", once)
    # Half of the titles, none of them more often than it occurs.
    assert of("title", rows) <= of("title", once)
    # 2.5: every row twice, and half of them a third time.
    more = of("title", build_sft_mixture(dataset, semantics, tokenizer, weights={"title": 2.5}))
    assert sum(more.values()) == 40
    assert all(2 * number <= more[row] <= 3 * number for row, number in of("title", once).items())


def test_another_seed_draws_other_rows_in_another_order(dataset, semantics, tokenizer):
    first, second = (
        build_sft_mixture(dataset, semantics, tokenizer, weights={"title": 0.5}, seed=seed) for seed in (1, 2)
    )
    assert first["input_ids"][:] != second["input_ids"][:]
    assert keyed(first) != keyed(second)


def test_rows_are_shuffled_and_the_same_for_a_seed(dataset, semantics, tokenizer, monkeypatch, tmp_path):
    rows = build_sft_mixture(dataset, semantics, tokenizer, seed=3)
    tasks = rows["task"][:]
    assert tasks != sorted(tasks, key=list(ALL).index)
    # In a fresh cache everything is made anew.
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "another")
    again = build_sft_mixture(dataset, semantics, tokenizer, seed=3)
    assert again.to_dict() == rows.to_dict()
    assert str(tmp_path / "another") in again.cache_files[0]["filename"]


def test_modes_and_splits(dataset, semantics, tokenizer):
    rows = build_sft_mixture(dataset, None, tokenizer, tasks=["sequence"], sequence_mode="window")
    assert keyed(rows) == keyed(build_sequence_rows(dataset.train, tokenizer, mode="window"))
    rows = build_sft_mixture(dataset, None, tokenizer, tasks=["sequence", "history_title"], split="test")
    assert counts(rows) == {"sequence": 2, "history_title": 2}
    sequence = rows.filter(lambda row: row["task"] == "sequence")
    assert keyed(sequence) == keyed(build_sequence_rows(dataset.test, tokenizer))


@pytest.fixture
def generated(monkeypatch):
    """How often rows were built, not read."""
    calls = []
    from_generator = Dataset.from_generator

    def counting(generator, **kwargs):
        def counted():
            calls.append(1)
            yield from generator()

        return from_generator(counted, **kwargs)

    monkeypatch.setattr(Dataset, "from_generator", counting)
    return calls


def test_equal_arguments_hit_the_cache(dataset, semantics, tokenizer, backbone_dir, generated):
    rows = build_sft_mixture(dataset, semantics, tokenizer, weights={"title": 0.5})
    assert len(generated) == 1
    # Equal objects made anew, as in another process.
    other = dataclasses.replace(
        dataset,
        **{name: Dataset.from_list(list(getattr(dataset, name))) for name in ("items", "train", "valid", "test")},
    )
    meanings = TokenSemantics(
        TokenDescription(token, meaning.description, list(meaning.keywords)) for token, meaning in semantics.items()
    )
    index = SIDIndex(list(dataset.sid_index.item_ids), dataset.sid_index.codes.copy())
    fresh = TSRecTokenizer.from_backbone(backbone_dir, index)
    # What earlier calls leave behind in a tokenizer changes no row.
    fresh(["steel nail", "saw"], padding=True, truncation=True, max_length=2)
    again = build_sft_mixture(other, meanings, fresh, weights={"title": 0.5})
    assert len(generated) == 1
    assert again._fingerprint == rows._fingerprint
    assert again.cache_files == rows.cache_files and rows.cache_files
    assert again.to_dict() == rows.to_dict()


@pytest.mark.parametrize(
    "change",
    [
        {"tasks": ("sequence", "title", "alignment")},
        {"weights": {"title": 0.5}},
        {"split": "valid"},
        {"sequence_mode": "window"},
        {"keywords": True},
        {"seed": 43},
        {"max_text_tokens": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_any_changed_argument_misses_the_cache(dataset, semantics, tokenizer, generated, change):
    rows = build_sft_mixture(dataset, semantics, tokenizer)
    other = build_sft_mixture(dataset, semantics, tokenizer, **change)
    assert len(generated) == 2 and other._fingerprint != rows._fingerprint
    assert other.to_dict() != rows.to_dict()


def test_any_changed_data_misses_the_cache(dataset, semantics, tokenizer, backbone_dir, generated, make_recommender):
    def changed(rows, column, value):
        return rows.map(lambda row, number: {column: value} if number == 0 else {}, with_indices=True)

    meanings = list(semantics.values())
    codes = dataset.sid_index.codes.copy()
    codes[0] = [0, 2, 1]
    no_eos = TSRecTokenizer.from_backbone(backbone_dir, dataset.sid_index)
    no_eos.eos_token = "<pad>"
    cases = [
        (dataset, semantics, tokenizer),
        (dataclasses.replace(dataset, items=changed(dataset.items, "title", "saw")), semantics, tokenizer),
        (dataclasses.replace(dataset, train=changed(dataset.train, "target", "saw")), semantics, tokenizer),
        (dataclasses.replace(dataset, train=changed(dataset.train, "history", ["saw"])), semantics, tokenizer),
        (dataclasses.replace(dataset, train=changed(dataset.train, "user_id", "eve")), semantics, tokenizer),
        (dataset, TokenSemantics([TokenDescription("<a_0>", "metal", ["metal"]), *meanings[1:]]), tokenizer),
        (dataset, semantics, TSRecTokenizer.from_backbone(backbone_dir, SIDIndex(dataset.sid_index.item_ids, codes))),
        (dataset, semantics, no_eos),
        (dataset, semantics, make_recommender(add_bos=True)[1]),
    ]
    rows = [build_sft_mixture(*case) for case in cases]
    assert len(generated) == len({each._fingerprint for each in rows}) == len(cases)


def test_a_hidden_change_of_the_catalogue_does_not_matter(dataset, semantics, tokenizer, generated):
    """Descriptions of items make no rows."""
    rows = build_sft_mixture(dataset, semantics, tokenizer)
    items = dataset.items.map(lambda item: {"description": "another"})
    again = build_sft_mixture(dataclasses.replace(dataset, items=items), semantics, tokenizer)
    assert len(generated) == 1 and again._fingerprint == rows._fingerprint


def test_errors(dataset, semantics, tokenizer):
    with pytest.raises(ValueError, match=r"`tasks` among .* but found \['titles'\]"):
        build_sft_mixture(dataset, semantics, tokenizer, tasks=["sequence", "titles"])
    with pytest.raises(ValueError, match=r"`weights` among .* but found \['titles'\]"):
        build_sft_mixture(dataset, semantics, tokenizer, weights={"titles": 1})
    with pytest.raises(ValueError, match="at least one task"):
        build_sft_mixture(dataset, semantics, tokenizer, tasks=[])
    for weight in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite (weights of at least 0|numbers), but found"):
            build_sft_mixture(dataset, semantics, tokenizer, weights={"title": weight})
    with pytest.raises(ValueError, match="`semantics` for the task 'alignment', but found None"):
        build_sft_mixture(dataset, None, tokenizer)
    with pytest.raises(ValueError, match=r"`split` among \('train', 'valid', 'test'\), but found 'items'"):
        build_sft_mixture(dataset, semantics, tokenizer, split="items")
    with pytest.raises(ValueError, match=r"The tasks \['title'\] give no rows of 'train'"):
        build_sft_mixture(dataset, semantics, tokenizer, tasks=["title"], weights={"title": 0})


def test_what_the_builders_say_is_not_hidden(dataset, semantics, tokenizer, backbone_dir):
    with pytest.raises(ValueError, match="'session' or 'window', but found 'windows'"):
        build_sft_mixture(dataset, semantics, tokenizer, sequence_mode="windows")
    blank = TokenSemantics([TokenDescription("<a_0>", " ", ["metal"]), *list(semantics.values())[1:]])
    # A failed call leaves nothing in the cache that a later one could take for its rows.
    for _ in range(2):
        with pytest.raises(ValueError, match="Expected a description of '<a_0>'"):
            build_sft_mixture(dataset, blank, tokenizer)
    fewer = TSRecTokenizer.from_backbone(backbone_dir, dataset.sid_index.without_items(["cheese"]))
    for _ in range(2):
        with pytest.raises(KeyError, match="Item 'cheese' is not among the 7 items"):
            build_sft_mixture(dataset, semantics, fewer)


def test_tokens_without_a_description_are_refused(dataset, semantics, tokenizer):
    fewer = TokenSemantics(entry for entry in semantics.values() if entry.token != "<b_2>")
    with pytest.raises(
        ValueError, match="a description for each of the 7 tokens .* first '<b_2>'. Use the descriptions of this index"
    ):
        build_sft_mixture(dataset, fewer, tokenizer)


def test_start_tokens_stand_once(dataset, semantics, make_recommender):
    _, tokenizer = make_recommender(add_bos=True)
    assert PromptBuilder(tokenizer).sequence_instruction.startswith("<s>")
    for row in build_sft_mixture(dataset, semantics, tokenizer):
        assert row["input_ids"].count(tokenizer.bos_token_id) == 1
        assert row["input_ids"][0] == tokenizer.bos_token_id
