import os
import random
from collections import Counter

import numpy as np
import pytest
import torch
from datasets import Dataset

from tsrec_hf.data import DataCollatorForTSAlign, PromptBuilder, build_sequence_rows
from tsrec_hf.data.tasks.sequence import SequenceTask, default_targets_per_stretch
from tsrec_hf.items import RecommendationDataset, load_minionerec
from tsrec_hf.models import SIDIndex, TSRecTokenizer


INDUSTRIAL = os.environ.get("TSREC_DATA")
needs_data = pytest.mark.skipif(
    not INDUSTRIAL, reason="TSREC_DATA does not name the folder of Industrial_and_Scientific"
)

# 60 items with a SID each, so that rows can be read back as items.
INDEX = SIDIndex([f"i{n}" for n in range(60)], [[n // 16, n // 4 % 4, n % 4] for n in range(60)])


def interactions(rows):
    users, histories, targets = zip(*rows)
    return Dataset.from_dict({"user_id": users, "history": histories, "target": targets})


def users_rows(sequences, longest=10):
    """One row per target with the last `longest` items before it, user by user."""
    return interactions(
        (user, items[max(0, at - longest) : at], items[at])
        for user, items in sequences.items()
        for at in range(1, len(items))
    )


def random_sequences(lengths, seed=0):
    drawn = random.Random(seed)
    return {f"u{n}": drawn.sample(INDEX.item_ids, length) for n, length in enumerate(lengths)}


def read_back(rows, tokenizer):
    """Every labelled target of every row, with all items that stand before it in the row."""
    prompts = PromptBuilder(tokenizer)
    item_of = {tuple(ids): item for item, ids in zip(INDEX.item_ids, tokenizer.encode_sids(INDEX.item_ids))}
    start = len(prompts.instruction_ids)
    pairs = []
    for row in rows:
        assert row["input_ids"][:start] == prompts.instruction_ids
        assert row["labels"][:start] == [-100] * start
        ids, labels = np.array(row["input_ids"][start:]), np.array(row["labels"][start:])
        assert len(ids) == len(labels) and len(ids) % 3 == 0
        items = [item_of[tuple(sid)] for sid in ids.reshape(-1, 3).tolist()]
        for at, answer in enumerate(labels.reshape(-1, 3)):
            if (answer != -100).any():
                assert answer.tolist() == ids.reshape(-1, 3)[at].tolist()
                pairs.append((tuple(items[:at]), items[at]))
    return pairs


def plain_pairs(rows):
    return [(tuple(row["history"][-10:]), row["target"]) for row in rows]


@pytest.fixture
def wide_tokenizer(backbone_dir):
    return TSRecTokenizer.from_backbone(backbone_dir, INDEX)


def test_one_row_a_user_with_labels_at_every_target(dataset, tokenizer):
    rows = build_sequence_rows(dataset.train, tokenizer)
    # ann: hammer -> nail -> saw -> screw, bob: apple -> pear -> bread, cid: bread -> hammer
    a0, a1, b0, b1, b2, c0, c1 = tokenizer.convert_tokens_to_ids(
        ["<a_0>", "<a_1>", "<b_0>", "<b_1>", "<b_2>", "<c_0>", "<c_1>"]
    )
    prompt = tokenizer("Items chosen in order:").input_ids
    hammer, nail, saw, screw = [a0, b0, c0], [a0, b1, c0], [a0, b0, c1], [a0, b1, c0]
    apple, pear, bread = [a1, b0, c0], [a1, b0, c1], [a1, b1, c0]
    hidden = [-100] * (len(prompt) + 3)
    assert rows.to_dict() == {
        "input_ids": [
            prompt + hammer + nail + saw + screw,
            prompt + apple + pear + bread,
            prompt + bread + hammer,
        ],
        "labels": [hidden + nail + saw + screw, hidden + pear + bread, hidden + hammer],
        "task": ["sequence"] * 3,
    }


def test_one_row_a_target_in_windows(dataset, tokenizer):
    rows = build_sequence_rows(dataset.train, tokenizer, mode="window")
    prompts = PromptBuilder(tokenizer)
    for row, interaction in zip(rows, dataset.train, strict=True):
        answer = tokenizer.encode_sids([interaction["target"]])[0]
        prompt = prompts.sequence_prompt_ids(interaction["history"])
        assert row == {
            "input_ids": prompt + answer,
            "labels": [-100] * len(prompt) + answer,
            "task": "sequence",
        }


@pytest.mark.parametrize("mode", ["session", "window"])
def test_the_answer_is_the_sid_and_no_end_token(dataset, tokenizer, mode):
    for row in build_sequence_rows(dataset.train, tokenizer, mode=mode):
        labels = [label for label in row["labels"] if label != -100]
        assert labels[-3:] == row["input_ids"][-3:] and len(labels) % 3 == 0
        assert tokenizer.eos_token_id not in row["input_ids"]


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("mode", ["session", "window"])
def test_rows_of_other_splits_have_labels_on_their_targets_only(dataset, tokenizer, split, mode):
    rows = build_sequence_rows(getattr(dataset, split), tokenizer, mode=mode)
    assert [sum(label != -100 for label in labels) for labels in rows["labels"]] == [3, 3]
    targets = tokenizer.encode_sids(getattr(dataset, split)["target"][:])
    assert [labels[-3:] for labels in rows["labels"]] == targets


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_session_row_has_the_loss_of_its_window_rows(make_recommender, kind):
    model, tokenizer = make_recommender(kind, index=INDEX, semantics=None)
    collator = DataCollatorForTSAlign(tokenizer)
    for length in (2, 3, 7, 11):
        rows = users_rows(random_sequences([length], seed=length))
        sums = {}
        for mode in ("session", "window"):
            batch = collator(list(build_sequence_rows(rows, tokenizer, mode=mode)))
            # Window rows differ in length, so all but the longest are padded on the right.
            assert len(batch["input_ids"]) == (1 if mode == "session" else length - 1)
            with torch.no_grad():
                logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            losses = torch.nn.functional.cross_entropy(
                logits[:, :-1].transpose(1, 2), batch["labels"][:, 1:], reduction="none"
            )
            sums[mode] = losses.sum().item()
            assert int((losses != 0).sum()) == 3 * (length - 1)
        assert sums["session"] == pytest.approx(sums["window"], rel=1e-4)


def test_every_target_once_with_its_last_ten_items(wide_tokenizer):
    sequences = random_sequences(range(2, 41))
    rows = users_rows(sequences)
    sessions = build_sequence_rows(rows, wide_tokenizer, targets_per_stretch=1)
    # 10 users of 2 to 11 items fill one row each; the longer ones, of n items, have n - 11 targets and rows more.
    assert sessions.num_rows == 10 + sum(1 + n - 11 for n in range(12, 41))
    assert Counter(read_back(sessions, wide_tokenizer)) == Counter(plain_pairs(rows))
    windows = build_sequence_rows(rows, wide_tokenizer, mode="window")
    assert Counter(read_back(windows, wide_tokenizer)) == Counter(plain_pairs(rows))


def test_uncut_histories_give_the_same_rows(wide_tokenizer):
    sequences = random_sequences(range(2, 41))
    cut, uncut = (build_sequence_rows(users_rows(sequences, longest), wide_tokenizer) for longest in (10, 100))
    assert cut.to_dict() == uncut.to_dict()


def test_a_user_met_late_keeps_the_history_of_the_first_row(wide_tokenizer):
    # As in a validation split: the first row has 13 items behind it, of which ten count; two more targets follow.
    items = random_sequences([16])["u0"]
    rows = interactions([("u", items[at - 10 : at], items[at]) for at in (13, 14, 15)])
    sessions = build_sequence_rows(rows, wide_tokenizer, targets_per_stretch=1)
    assert read_back(sessions, wide_tokenizer) == plain_pairs(rows)
    short = interactions([("u", items[:4], items[4]), ("u", items[:5], items[5])])
    sessions = build_sequence_rows(short, wide_tokenizer, targets_per_stretch=1)
    assert sessions.num_rows == 1
    assert read_back(sessions, wide_tokenizer) == plain_pairs(short)


def test_interleaved_users(wide_tokenizer):
    sequences = random_sequences([5, 14, 2, 30, 11])
    rows = users_rows(sequences)
    # Any mix of the users that keeps each one's own order.
    queues = {user: [row for row in rows if row["user_id"] == user] for user in sequences}
    draws = [user for user, queue in queues.items() for _ in queue]
    random.Random(1).shuffle(draws)
    mixed = Dataset.from_list([queues[user].pop(0) for user in draws])
    assert mixed["user_id"][:] != rows["user_id"][:]
    sessions = build_sequence_rows(mixed, wide_tokenizer, targets_per_stretch=1)
    assert Counter(read_back(sessions, wide_tokenizer)) == Counter(plain_pairs(rows))
    assert sessions.num_rows == build_sequence_rows(rows, wide_tokenizer, targets_per_stretch=1).num_rows


@pytest.mark.parametrize(
    "second",
    [
        (["i0", "i5"], "i3"),  # another item
        (["i1"], "i3"),  # shorter than what the user's rows hold: the target would see more than its history
        (["i0"], "i3"),  # the same history again
        (["i9", "i0", "i1"], "i3"),  # longer than what the user's rows hold
        (["i1", "i0"], "i3"),  # another order
    ],
)
def test_rows_that_do_not_chain_begin_a_new_session(wide_tokenizer, second):
    rows = interactions([("u", ["i0"], "i1"), ("u", *second)])
    sessions = build_sequence_rows(rows, wide_tokenizer)
    assert sessions.num_rows == 2
    assert read_back(sessions, wide_tokenizer) == plain_pairs(rows)


def test_a_new_session_goes_on_and_the_old_one_is_closed(wide_tokenizer):
    rows = interactions(
        [
            ("u", ["i0"], "i1"),
            ("u", ["i7"], "i8"),
            ("u", ["i7", "i8"], "i9"),
            ("u", ["i0", "i1"], "i2"),
        ]
    )
    sessions = build_sequence_rows(rows, wide_tokenizer)
    assert sessions.num_rows == 3
    assert Counter(read_back(sessions, wide_tokenizer)) == Counter(plain_pairs(rows))


def test_items_taken_twice_chain_by_place_not_by_name(wide_tokenizer):
    items = ["i0", "i1"] * 9
    rows = users_rows({"u": items})
    assert Counter(
        read_back(build_sequence_rows(rows, wide_tokenizer, targets_per_stretch=1), wide_tokenizer)
    ) == Counter(plain_pairs(rows))


def test_max_history_is_the_context_of_every_target(wide_tokenizer, backbone_dir):
    rows = users_rows(random_sequences([6]), longest=3)
    sessions = build_sequence_rows(
        rows, TSRecTokenizer.from_backbone(backbone_dir, INDEX, max_history=3), targets_per_stretch=1
    )
    # Items 0 to 3 in the first row, then 1 to 4 and 2 to 5.
    assert [len(ids) for ids in sessions["input_ids"]] == [len(sessions[0]["input_ids"])] * 3
    assert Counter(read_back(sessions, wide_tokenizer)) == Counter(
        (tuple(row["history"]), row["target"]) for row in rows
    )
    # Rows whose history was cut to three do not chain into longer ones.
    assert build_sequence_rows(rows, wide_tokenizer, targets_per_stretch=1).num_rows == 3


@pytest.mark.parametrize("targets_per_stretch", [None, 1, 3, 7, 10])
def test_every_target_is_counted_once_and_sees_the_last_items_of_its_history(wide_tokenizer, targets_per_stretch):
    sequences = random_sequences([40, 5, 12, 11, 2, 60, 24, 18])
    rows = users_rows(sequences)
    sessions = build_sequence_rows(rows, wide_tokenizer, targets_per_stretch=targets_per_stretch)
    histories = {}
    for row in rows:
        histories.setdefault(row["target"], []).append(tuple(row["history"]))
    pairs = read_back(sessions, wide_tokenizer)
    assert Counter(target for _, target in pairs) == Counter(rows["target"][:])
    least = 11 - (targets_per_stretch or default_targets_per_stretch(wide_tokenizer))
    for seen, target in pairs:
        # As a search, a target never sees more than ten items, and no other than the last ones before it.
        assert any(whole[-len(seen) :] == seen and len(seen) >= min(len(whole), least) for whole in histories[target])


def test_long_histories_cost_at_most_twice_the_tokens_of_their_targets(wide_tokenizer):
    # "Items chosen in order:" is five tokens; 5 + 11 * 3 = 38 tokens are at most twice those of 7 targets.
    assert default_targets_per_stretch(wide_tokenizer) == 7
    rows = users_rows(random_sequences([60]))
    sessions = build_sequence_rows(rows, wide_tokenizer)
    # 10 targets, and 49 more in 7 stretches.
    assert [sum(label != -100 for label in row) // 3 for row in sessions["labels"]] == [10] + [7] * 7
    tokens = sum(len(ids) for ids in sessions["input_ids"])
    assert tokens <= 2 * 3 * len(rows)
    assert sum(len(ids) for ids in build_sequence_rows(rows, wide_tokenizer, "window")["input_ids"]) > 2.5 * tokens
    # Stretches are even: 40 items have 29 further targets in 5 stretches, not 4 and a rest.
    labels = build_sequence_rows(users_rows(random_sequences([40])), wide_tokenizer)["labels"]
    assert [sum(label != -100 for label in row) // 3 for row in labels] == [10, 6, 6, 6, 6, 5]


def test_rows_of_other_splits_have_whole_histories(wide_tokenizer):
    rows = users_rows(random_sequences([40]))
    items = Dataset.from_dict({name: INDEX.item_ids for name in ("item_id", "title")})
    dataset = RecommendationDataset(items, rows, rows, rows, INDEX)
    found = {split: SequenceTask().rows(dataset, split, wide_tokenizer) for split in ("train", "valid")}
    assert Counter(read_back(found["valid"], wide_tokenizer)) == Counter(plain_pairs(rows))
    assert len(found["train"]) == 6 and len(SequenceTask("session", 1).rows(dataset, "train", wide_tokenizer)) == 30


@pytest.mark.parametrize("number", [0, 11])
def test_stretches_without_history_are_refused(wide_tokenizer, number):
    rows = users_rows(random_sequences([4]))
    with pytest.raises(ValueError, match=f"`targets_per_stretch` from 1 to 10, .* found {number}"):
        build_sequence_rows(rows, wide_tokenizer, targets_per_stretch=number)


def test_colliding_items_share_their_tokens(tokenizer):
    rows = interactions([("u", ["hammer"], "nail"), ("v", ["hammer"], "screw")])
    first, second = build_sequence_rows(rows, tokenizer)
    assert first == second


def test_no_interactions_give_no_rows(dataset, tokenizer):
    rows = build_sequence_rows(dataset.train.select([]), tokenizer)
    assert rows.num_rows == 0 and rows.column_names == ["input_ids", "labels", "task"]


@pytest.mark.parametrize("mode", ["session", "window"])
def test_errors_of_rows(tokenizer, mode):
    for row in (("u", ["axe"], "nail"), ("u", ["nail"], "axe")):
        with pytest.raises(KeyError, match="Item 'axe' is not among the 8 items"):
            build_sequence_rows(interactions([row]), tokenizer, mode=mode)
    with pytest.raises(ValueError, match="history of at least one item, but found an empty one"):
        build_sequence_rows(interactions([("u", ["saw"], "nail"), ("u", [], "nail")]), tokenizer, mode=mode)


def test_errors_of_arguments(dataset, tokenizer, backbone_dir):
    with pytest.raises(ValueError, match=r"\['target', 'user_id'\] are missing from \['history'\]"):
        build_sequence_rows(dataset.train.remove_columns(["user_id", "target"]), tokenizer)
    with pytest.raises(ValueError, match="'session' or 'window', but found 'windows'"):
        build_sequence_rows(dataset.train, tokenizer, mode="windows")
    with pytest.raises(ValueError, match="`max_history` as a whole number of at least 1, but found 0"):
        build_sequence_rows(
            dataset.train, TSRecTokenizer.from_backbone(backbone_dir, dataset.sid_index, max_history=0)
        )


@needs_data
def test_industrial_counts_every_target_once(backbone_dir):
    dataset = load_minionerec(INDUSTRIAL)
    tokenizer = TSRecTokenizer.from_backbone(backbone_dir, dataset.sid_index)
    rows = build_sequence_rows(dataset.train, tokenizer)
    targets = sum(sum(label != -100 for label in labels) for labels in rows["labels"])
    assert (len(dataset.train), targets) == (36_259, 3 * 36_259)
    assert rows.num_rows < 36_259 / 2
    windows = build_sequence_rows(dataset.train, tokenizer, mode="window")
    start = len(PromptBuilder(tokenizer).instruction_ids)

    def contexts(rows):
        for ids, labels in zip(rows["input_ids"], rows["labels"]):
            first = next(at for at, label in enumerate(labels) if label != -100)
            for at in range(first, len(ids), 3):
                yield tuple(ids[start : at + 3])

    assert Counter(contexts(rows)) == Counter(contexts(windows))
