"""The trie over token ids: where in a SID a request is, and what may follow, worked by hand."""

import numpy as np
import pytest
import torch

from tsrec_hf import export_backbone
from tsrec_hf.models import SearchSession
from tsrec_hf.serving import SIDConstraint


# Tokens 1 and 2 are words, 5 and 6 the first level, 7 and 8 the second; 9 is a SID token of no SID here.
SIDS = [[5, 7], [5, 8], [6, 7]]


@pytest.mark.parametrize(
    ("token_ids", "prefix"),
    [
        ([], ()),
        ([1, 2], ()),
        ([1, 5], (5,)),
        # A history of whole SIDs is no beginning of one, also where nothing stands before it.
        ([1, 5, 8, 6, 7], ()),
        ([5, 8, 6, 7, 6], (6,)),
        # Words in between: what stands before them does not count.
        ([5, 1, 5, 7], ()),
    ],
)
def test_the_level_is_read_from_the_end(token_ids, prefix):
    assert SIDConstraint(SIDS).prefix_of(token_ids) == prefix


def test_only_what_continues_a_sid_is_left():
    logits = torch.arange(40, dtype=torch.float32).view(4, 10)
    constraint = SIDConstraint(SIDS)
    restricted = constraint.restrict(logits.clone(), rows=[3, 0, 1], prefixes=[(6,), (), (5,)])
    kept = [[5, 6], [7, 8], list(range(10)), [7]]  # row 2 is not restricted
    for row, tokens in enumerate(kept):
        assert (restricted[row] > -torch.inf).nonzero().flatten().tolist() == tokens
        assert torch.equal(restricted[row, tokens], logits[row, tokens])


def test_a_prefix_of_no_sid_gives_numbers():
    """What follows a beam of probability 0: a row of `-inf` alone would make its log-probabilities NaN."""
    restricted = SIDConstraint(SIDS).restrict(torch.zeros(1, 10), rows=[0], prefixes=[(7,)])
    assert (restricted[0] > -torch.inf).nonzero().flatten().tolist() == [7, 8]
    assert not restricted.log_softmax(-1).isnan().any()


def test_a_checkpoint_and_its_export_hold_the_same_sids(model, tokenizer, tmp_path, backbone_dir):
    model.save_pretrained(tmp_path / "checkpoint"), tokenizer.save_pretrained(tmp_path / "checkpoint")
    export_backbone(model, tmp_path / "export", tokenizer)
    ids = {tuple(row) for row in tokenizer.encode_sids(tokenizer.sid_index.item_ids)}
    for folder in ("checkpoint", "export"):
        assert SIDConstraint.of_model(tmp_path / folder).sids == ids
    assert SIDConstraint.of_tokenizer(tokenizer).sids == ids and len(ids) == 7  # two items share one
    assert SIDConstraint.of_model(backbone_dir) is None
    (tmp_path / "export" / "sids.txt").write_text("<a_0><b_0><z_9>\n")
    with pytest.raises(ValueError, match="found '<z_9>'. Write the folder by `export_backbone`"):
        SIDConstraint.of_model(tmp_path / "export")


def test_beams_behind_the_constraint_are_those_of_the_search(model, tokenizer):
    """As an engine's beam search does: each prefix is a request of one token, with the log-softmax of what is left."""
    constraint, session = SIDConstraint.of_tokenizer(tokenizer), SearchSession(model, tokenizer)
    history = ["hammer", "pear"]
    prompt = [*session.prompts.instruction_ids, *session.prompts.history_ids(history)]
    beams = [((), 0.0)]
    for _ in range(3):
        found = []
        for path, score in beams:
            token_ids = [*prompt, *path]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([token_ids])).logits[:, -1].float()
            log_probs = constraint.restrict(logits, [0], [constraint.prefix_of(token_ids)]).log_softmax(-1)[0]
            found += [((*path, token), score + log_probs[token].item()) for token in range(len(log_probs))]
        beams = sorted(found, key=lambda beam: -beam[1])[:5]
    expected = session.search.beam(*session.pad([session.prompts.history_ids(history)]), num_beams=5)
    assert [list(path) for path, _ in beams] == session.tokens_of(expected.leaves)[0].tolist()
    np.testing.assert_allclose([score for _, score in beams], expected.scores[0], atol=1e-4)
