"""The lists of a trained model are those of `generate`, for 64 users of a real catalogue."""

import os

import pytest
import torch

from tsrec_hf.items import load_minionerec
from tsrec_hf.models import PromptBuilder, SIDSearch, TSRecForCausalLM, TSRecTokenizer


INDUSTRIAL = os.environ.get("TSREC_DATA")
CHECKPOINT = os.environ.get("TSREC_CHECKPOINT")
NUM_USERS, NUM_BEAMS, BATCH_SIZE = 64, 50, 8
# Sums of three float32 log-probabilities, about 10 in size; nearer scores may change places.
TOLERANCE = 1e-4
TIE = 1e-5

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not INDUSTRIAL, reason="TSREC_DATA does not name the folder of Industrial_and_Scientific"),
    pytest.mark.skipif(not CHECKPOINT, reason="TSREC_CHECKPOINT does not name a recommender trained on TSREC_DATA"),
]


@pytest.fixture(scope="module")
def trained():
    model = TSRecForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32)
    return model, TSRecTokenizer.from_pretrained(CHECKPOINT)


@pytest.fixture(scope="module")
def histories():
    users = load_minionerec(INDUSTRIAL).test.shuffle(seed=0).select(range(NUM_USERS))["history"]
    return sorted(users, key=len)


def generated(model, tokenizer, histories) -> tuple[list[list[tuple[int, ...]]], torch.Tensor]:
    """Lists of SIDs as token ids, and their scores, by `generate` held to the catalogue."""
    rows = [PromptBuilder(tokenizer).sequence_prompt_ids(history) for history in histories]
    padded = tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
    width = padded.input_ids.shape[1]
    children: dict[tuple[int, ...], set[int]] = {}
    for sid in tokenizer.encode_sids(tokenizer.sid_index.item_ids):
        for level, token_id in enumerate(sid):
            children.setdefault(tuple(sid[:level]), set()).add(token_id)
    output = model.backbone.generate(
        input_ids=padded.input_ids,
        attention_mask=padded.attention_mask,
        num_beams=NUM_BEAMS,
        num_return_sequences=NUM_BEAMS,
        length_penalty=0.0,
        do_sample=False,
        max_new_tokens=tokenizer.sid_index.num_levels,
        prefix_allowed_tokens_fn=lambda _, ids: sorted(children[tuple(ids[width:].tolist())]),
        eos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
        return_dict_in_generate=True,
        output_scores=True,
    )
    sids = output.sequences[:, width:].view(len(rows), NUM_BEAMS, -1).tolist()
    return [list(map(tuple, row)) for row in sids], output.sequences_scores.view(len(rows), NUM_BEAMS)


def searched(model, tokenizer, histories) -> tuple[list[list[tuple[int, ...]]], torch.Tensor]:
    """The same by the search of `recommend`: what prompts begin with is read once."""
    prompts, trie = PromptBuilder(tokenizer), tokenizer.sid_index.trie
    rows = [prompts.history_ids(history) for history in histories]
    padded = tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
    search = SIDSearch(model.backbone, trie, tokenizer.sid_token_ids, prefix_ids=torch.tensor(prompts.instruction_ids))
    lists, scores = [], []
    for start in range(0, len(rows), BATCH_SIZE):
        batch = slice(start, start + BATCH_SIZE)
        beams = search.beam(padded.input_ids[batch], padded.attention_mask[batch], NUM_BEAMS)
        items = [[tokenizer.sid_index.item_ids[trie.items_of_leaf(leaf)[0]] for leaf in row] for row in beams.leaves]
        lists += [list(map(tuple, tokenizer.encode_sids(row))) for row in items]
        scores.append(beams.scores)
    return lists, torch.cat(scores)


def test_lists_are_those_of_generate_for_every_user(trained, histories) -> None:
    model, tokenizer = trained
    differing = []
    for start in range(0, NUM_USERS, BATCH_SIZE):
        batch = histories[start : start + BATCH_SIZE]
        expected, expected_scores = generated(model, tokenizer, batch)
        found, scores = searched(model, tokenizer, batch)
        torch.testing.assert_close(scores, expected_scores, atol=TOLERANCE, rtol=0)
        for row, (sids, others) in enumerate(zip(found, expected)):
            score_of = dict(zip(others, expected_scores[row].tolist()))
            differing += [
                (start + row, rank)
                for rank, (sid, other) in enumerate(zip(sids, others))
                # Neighbours whose scores all but agree may change places.
                if sid != other and abs(score_of.get(sid, -torch.inf) - score_of[other]) > TIE
            ]
    assert not differing, f"users and ranks whose SIDs differ from those of `generate`: {differing}"


# With fewer items than beams, the last level reads only the prefixes that can still matter.
@pytest.mark.parametrize("top_k", [10, NUM_BEAMS])
def test_recommend_gives_the_items_of_these_lists(trained, histories, top_k) -> None:
    model, tokenizer = trained
    index = tokenizer.sid_index
    lists, scores = searched(model, tokenizer, histories)
    sid_of = dict(zip(map(tuple, tokenizer.encode_sids(index.item_ids)), map(index.sid_of, index.item_ids)))
    recommended = model.recommend(
        tokenizer, histories, top_k=top_k, num_beams=NUM_BEAMS, batch_size=BATCH_SIZE, scoring="vocabulary"
    )
    for row, sids, row_scores in zip(recommended, lists, scores.tolist()):
        expected = [
            (item_id, score) for sid, score in zip(sids, row_scores) for item_id in index.items_of(sid_of[sid])
        ]
        # Batches are padded otherwise here, so that neighbours whose scores all but agree may change places.
        score_of = dict(expected)
        assert [r.score for r in row] == pytest.approx([score for _, score in expected[:top_k]], abs=TOLERANCE)
        assert [score_of.get(r.item_id) for r in row] == pytest.approx([r.score for r in row], abs=TOLERANCE)
