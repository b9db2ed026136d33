import contextlib
import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from transformers.utils import logging

from tsrec_hf.models import (
    PromptBuilder,
    SIDIndex,
    SIDSearch,
    TSRecForCausalLM,
    TSRecTokenizer,
    probing_tsrec,
    search_tsrec,
    tree_passes_tsrec,
)
from tsrec_hf.models.recommending_tsrec import batches_of


KINDS = ["qwen2", "llama", "gpt2", "gemma3", "mistral"]
# Scores of some thousand float32 sums, about 10 in size.
TOLERANCE = 1e-4


def random_index(sizes: tuple[int, ...], num_items: int = 40, seed: int = 0) -> SIDIndex:
    codes = np.random.default_rng(seed).integers(0, sizes, size=(num_items, len(sizes)))
    tokens = [[f"<{'abcdefgh'[level]}_{code}>" for code in range(size)] for level, size in enumerate(sizes)]
    return SIDIndex([f"item {number}" for number in range(num_items)], codes, tokens=tokens)


def make(folder: str, index: SIDIndex, **kwargs) -> tuple[TSRecForCausalLM, TSRecTokenizer]:
    tokenizer = TSRecTokenizer.from_backbone(f"{folder}/tokenizer", index)
    model = TSRecForCausalLM.from_backbone(folder, tokenizer, **kwargs)
    # The SID rows all start alike; scores must differ for the order to mean anything.
    torch.manual_seed(1)
    first = tokenizer.sid_token_ids[0][0]
    with torch.no_grad():
        for matrix in {model.get_input_embeddings().weight, model.get_output_embeddings().weight}:
            matrix[first:].normal_(std=0.3)
    return model, tokenizer


def histories_of(index: SIDIndex) -> list[list[str]]:
    """Five users with histories of 1 to 10 items, so that a batch holds much padding."""
    items = index.item_ids
    return [items[:4], items[7:8], items[10:20], items[20:22], items[5:12]]


def beams_of(model, tokenizer, histories, num_beams: int) -> list[list[tuple[tuple[int, ...], float]]]:
    """Codes and scores by `tree_beam_search`, best first, of one left-padded batch."""
    index = tokenizer.sid_index
    inputs = encode(tokenizer, histories)
    beams = SIDSearch(model.backbone, index.trie, tokenizer.sid_token_ids).beam(*inputs, num_beams)
    return [
        [
            (tuple(index.codes[index.trie.items_of_leaf(leaf)[0]].tolist()), score)
            for leaf, score in zip(leaves, scores)
        ]
        for leaves, scores in zip(beams.leaves.tolist(), beams.scores.tolist())
    ]


def encode(tokenizer, histories) -> tuple[torch.Tensor, torch.Tensor]:
    prompts = [PromptBuilder(tokenizer).sequence_prompt(history) for history in histories]
    encoded = tokenizer(prompts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt")
    return encoded.input_ids, encoded.attention_mask


def generated_beams(model, tokenizer, histories, num_beams: int) -> list[list[tuple[tuple[int, ...], float]]]:
    """The same by the backbone's own `generate`, held to the catalogue by a dictionary of prefixes."""
    index = tokenizer.sid_index
    input_ids, attention_mask = encode(tokenizer, histories)
    prompt = input_ids.shape[1]
    children: dict[tuple[int, ...], set[int]] = {}
    for item_id in index.item_ids:
        token_ids = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(index.sid_of(item_id)))
        for level, token_id in enumerate(token_ids):
            children.setdefault(tuple(token_ids[:level]), set()).add(token_id)
    output = model.backbone.generate(
        input_ids=input_ids,
        attention_mask=attention_mask,
        num_beams=num_beams,
        num_return_sequences=num_beams,
        length_penalty=0.0,
        do_sample=False,
        max_new_tokens=index.num_levels,
        prefix_allowed_tokens_fn=lambda _, ids: (
            sorted(children[tuple(ids[prompt:].tolist())])
            if tuple(ids[prompt:].tolist()) in children
            else [tokenizer.eos_token_id]
        ),
        eos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
        return_dict_in_generate=True,
        output_scores=True,
    )
    sequences = output.sequences[:, prompt:].reshape(len(histories), -1, index.num_levels).tolist()
    if num_beams == 1:  # Greedy search has no scores of sequences.
        picked = torch.stack(
            [
                scores.log_softmax(-1).gather(1, output.sequences[:, prompt + step, None])[:, 0]
                for step, scores in enumerate(greedy_logits(model, output.sequences, attention_mask, prompt))
            ]
        )
        scores = picked.sum(0).unsqueeze(-1).tolist()
    else:
        scores = output.sequences_scores.reshape(len(histories), -1).tolist()
    code_of = {token_id: code for ids in tokenizer.sid_token_ids for code, token_id in enumerate(ids)}
    # Beams that `generate` could not fill score about -1e9.
    return [
        [(tuple(map(code_of.get, row)), score) for row, score in zip(rows, row_scores) if score > -1e8]
        for rows, row_scores in zip(sequences, scores)
    ]


def greedy_logits(model, sequences, attention_mask, prompt: int) -> list[torch.Tensor]:
    steps = sequences.shape[1] - prompt
    mask = torch.cat([attention_mask, attention_mask.new_ones(len(sequences), steps)], dim=1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model.backbone(input_ids=sequences, attention_mask=mask, position_ids=positions).logits
    return list(logits[:, prompt - 1 : -1].unbind(1))


def assert_same_beams(found, expected) -> None:
    assert [[codes for codes, _ in row] for row in found] == [[codes for codes, _ in row] for row in expected]
    for row, expected_row in zip(found, expected):
        assert [score for _, score in row] == pytest.approx([score for _, score in expected_row], abs=TOLERANCE)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(6, 9), (4, 5, 6), (3, 4, 3, 5)], ids=["2 levels", "3 levels", "4 levels"])
def test_beams_and_scores_are_those_of_generate(save_backbone, tmp_path, kind, tied, sizes) -> None:
    index = random_index(sizes)
    model, tokenizer = make(save_backbone(tmp_path, kind, tied), index)
    histories = histories_of(index)
    for num_beams in (1, 3, 5):
        found = beams_of(model, tokenizer, histories, num_beams)
        assert [len(row) for row in found] == [num_beams] * len(histories)
        assert_same_beams(found, generated_beams(model, tokenizer, histories, num_beams))
    model.set_attn_implementation("eager")
    assert model.backbone.config._attn_implementation == "eager"
    assert_same_beams(
        beams_of(model, tokenizer, histories, 5),
        generated_beams(model, tokenizer, histories, 5),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_more_beams_than_sids(save_backbone, tmp_path, kind) -> None:
    index = random_index((3, 4, 3), num_items=30)
    model, tokenizer = make(save_backbone(tmp_path, kind), index)
    histories = histories_of(index)[:3]
    found = beams_of(model, tokenizer, histories, num_beams=40)
    assert index.trie.num_leaves < 30 and [len(row) for row in found] == [index.trie.num_leaves] * 3
    assert_same_beams(found, generated_beams(model, tokenizer, histories, num_beams=40))


@pytest.mark.parametrize("kind", ["gemma3", "mistral"])
def test_more_levels_than_a_sliding_window_sees(save_backbone, tmp_path, kind) -> None:
    # 8 levels, a window of 6: the last level's beams must not see their first ancestor.
    index = random_index((3, 2, 2, 2, 2, 2, 2, 3), num_items=30)
    model, tokenizer = make(save_backbone(tmp_path, kind), index)
    histories = histories_of(index)
    assert_same_beams(
        beams_of(model, tokenizer, histories, num_beams=7),
        generated_beams(model, tokenizer, histories, num_beams=7),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_summed_log_probabilities_of_plain_forwards(save_backbone, tmp_path, kind) -> None:
    index = random_index((3, 4, 3), num_items=20)
    model, tokenizer = make(save_backbone(tmp_path, kind, tied=False), index)
    for history in histories_of(index)[:2]:
        [found] = beams_of(model, tokenizer, [history], num_beams=1000)
        expected = {}
        prompt = PromptBuilder(tokenizer).sequence_prompt(history)
        prompt_ids = tokenizer(prompt, add_special_tokens=False).input_ids
        for item_id in index.item_ids:
            sid_ids = tokenizer(index.sid_of(item_id), add_special_tokens=False).input_ids
            with torch.no_grad():
                logits = model.backbone(input_ids=torch.tensor([prompt_ids + sid_ids])).logits[0]
            log_probs = logits.log_softmax(-1)
            codes = tuple(index.codes[index.position_of(item_id)].tolist())
            expected[codes] = sum(
                log_probs[len(prompt_ids) - 1 + step, token_id].item() for step, token_id in enumerate(sid_ids)
            )
        assert len(found) == len(expected) == index.trie.num_leaves
        assert dict(found) == pytest.approx(expected, abs=TOLERANCE)
        scores = [score for _, score in found]
        assert scores == sorted(scores, reverse=True)


def test_nothing_of_a_generation_config_reaches_the_search(save_backbone, tmp_path) -> None:
    index = random_index((4, 5, 6))
    model, tokenizer = make(save_backbone(tmp_path / "plain"), index)
    hostile_folder = Path(save_backbone(tmp_path / "hostile"))
    settings = {
        "temperature": 0.1,
        "do_sample": True,
        "top_k": 1,
        "num_beams": 3,
        "repetition_penalty": 5.0,
        "length_penalty": 2.0,
        "max_new_tokens": 1,
        "eos_token_id": tokenizer.sid_token_ids[1][0],
        "suppress_tokens": tokenizer.sid_token_ids[0],
    }
    (hostile_folder / "generation_config.json").write_text(json.dumps(settings))
    hostile, _ = make(str(hostile_folder), index)
    assert hostile.generation_config.repetition_penalty == hostile.backbone.generation_config.repetition_penalty == 5
    expected = model.recommend(tokenizer, histories_of(index), top_k=8, num_beams=9)
    assert hostile.recommend(tokenizer, histories_of(index), top_k=8, num_beams=9) == expected

    hostile.save_pretrained(tmp_path / "saved")
    loaded = TSRecForCausalLM.from_pretrained(tmp_path / "saved")
    assert loaded.generation_config.repetition_penalty == 5
    assert loaded.recommend(tokenizer, histories_of(index), top_k=8, num_beams=9) == expected


def test_rules_that_leave_fewer_sids_than_beams(save_backbone, tmp_path) -> None:
    # Dead beams stand in padding, below which there is nothing: the first level's codes 5 and 9 must not be taken for
    # the third level's, which has two.
    index = SIDIndex(list("012345"), [[5, 0, 0], [5, 1, 0], [5, 2, 0], [5, 2, 1], [9, 0, 0], [9, 0, 1]])
    model, tokenizer = make(save_backbone(tmp_path), index)
    [everything] = model.recommend(tokenizer, [["0"]], top_k=6, num_beams=6)
    for size in range(1, 6):
        for allowed in itertools.combinations("012345", size):
            expected = [r for r in everything if r.item_id in allowed]
            for num_beams in (6, 50):
                found = model.recommend(tokenizer, [["0"]], top_k=6, num_beams=num_beams, allowed_items=list(allowed))
                assert [r.item_id for r in found[0]] == [r.item_id for r in expected]
                assert [r.score for r in found[0]] == pytest.approx([r.score for r in expected], abs=TOLERANCE)
            for num_beams in (1, 3):
                [found] = model.recommend(
                    tokenizer, [["0"]], top_k=num_beams, num_beams=num_beams, allowed_items=list(allowed)
                )
                assert len(found) == min(num_beams, size) and {r.item_id for r in found} <= set(allowed)


def test_each_prompt_of_a_batch_gets_what_it_gets_alone(save_backbone, tmp_path) -> None:
    index = random_index((4, 5, 6))
    for kind in KINDS:
        model, tokenizer = make(save_backbone(tmp_path / kind, kind), index)
        together = beams_of(model, tokenizer, histories_of(index), num_beams=6)
        alone = [beams_of(model, tokenizer, [history], num_beams=6)[0] for history in histories_of(index)]
        assert_same_beams(together, alone)


def test_bfloat16_backbones_score_in_float32(save_backbone, tmp_path) -> None:
    index = random_index((3, 4), num_items=20)
    model, tokenizer = make(save_backbone(tmp_path, "gemma3"), index, dtype=torch.bfloat16)
    logits = []
    beams_of(model, tokenizer, [index.item_ids[:3]], num_beams=50)  # the first search tries the backbone out
    model.backbone.register_forward_hook(lambda module, inputs, output: logits.append(output.logits))
    [found] = beams_of(model, tokenizer, [index.item_ids[:3]], num_beams=50)
    assert [level.dtype for level in logits] == [torch.bfloat16] * 2
    # All three first codes survive, the best one first.
    first = logits[0][0, 0].float().log_softmax(-1)[tokenizer.sid_token_ids[0]]
    second = logits[1][0].float().log_softmax(-1)[:, tokenizer.sid_token_ids[1]]
    beam_of = {code: beam for beam, code in enumerate(first.argsort(descending=True).tolist())}
    expected = {(a, b): (first[a] + second[beam_of[a], b]).item() for a, b in set(map(tuple, index.codes.tolist()))}
    # Sums in bfloat16 would be off by 1e-2.
    assert dict(found) == pytest.approx(expected, abs=1e-5)


def test_scores_may_enter_a_loss(save_backbone, tmp_path) -> None:
    index = random_index((3, 4))
    model, tokenizer = make(save_backbone(tmp_path), index)
    input_ids, attention_mask = encode(tokenizer, [["item 1"]])
    search = SIDSearch(model.backbone, index.trie, tokenizer.sid_token_ids)
    beams = search.beam(input_ids, attention_mask, num_beams=2)
    weight = torch.ones(1, requires_grad=True)
    (weight * beams.scores).sum().backward()  # Inference tensors would be refused here.
    assert weight.grad.item() == pytest.approx(beams.scores.sum().item())


def log_probs_of_all(model, tokenizer, history, scoring="vocabulary") -> dict[tuple[int, ...], float]:
    """Score of every SID of the catalogue by a plain forward pass each."""
    index = tokenizer.sid_index
    prompt_ids = PromptBuilder(tokenizer).sequence_prompt_ids(history)
    sids = sorted(set(map(tuple, index.codes.tolist())))
    expected = {}
    for codes in sids:
        sid_ids = [tokenizer.sid_token_ids[level][code] for level, code in enumerate(codes)]
        with torch.no_grad():
            logits = model.backbone(input_ids=torch.tensor([prompt_ids + sid_ids])).logits[0, len(prompt_ids) - 1 :]
        total = 0.0
        for level, token_id in enumerate(sid_ids):
            legal = slice(None)
            if scoring == "catalogue":
                following = sorted({other[level] for other in sids if other[:level] == codes[:level]})
                legal = [tokenizer.sid_token_ids[level][code] for code in following]
            total += (logits[level, token_id] - logits[level, legal].logsumexp(-1)).item()
        expected[codes] = total
    return expected


def searched(model, tokenizer, method: str, history, *args, scoring="vocabulary", prefix=True):
    """Codes and scores that a method of `SIDSearch` finds for one history; the instruction may be the prefix."""
    index, prompts = tokenizer.sid_index, PromptBuilder(tokenizer)
    prefix_ids = torch.tensor(prompts.instruction_ids) if prefix else None
    input_ids = torch.tensor([prompts.history_ids(history) if prefix else prompts.sequence_prompt_ids(history)])
    search = SIDSearch(model.backbone, index.trie, tokenizer.sid_token_ids, scoring, prefix_ids)
    beams = getattr(search, method)(input_ids, torch.ones_like(input_ids), *args)
    codes = [tuple(index.codes[index.trie.items_of_leaf(leaf)[0]].tolist()) for leaf in beams.leaves[0].tolist()]
    return list(zip(codes, beams.scores[0].tolist())), beams.num_expanded.item()


@pytest.mark.parametrize("prefix", [True, False], ids=["prefix read once", "whole prompts"])
@pytest.mark.parametrize("scoring", ["vocabulary", "catalogue"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_search_gives_the_scores_of_plain_forwards(save_backbone, tmp_path, kind, tied, scoring, prefix) -> None:
    index = random_index((3, 4, 3), num_items=20)
    model, tokenizer = make(save_backbone(tmp_path, kind, tied), index)
    for history in histories_of(index)[:3]:
        expected = log_probs_of_all(model, tokenizer, history, scoring)
        if scoring == "catalogue":
            assert sum(map(math.exp, expected.values())) == pytest.approx(1)
        ranked = sorted(expected, key=expected.get, reverse=True)
        for method, args in [("beam", (1000,)), ("exact", (1000, 5)), ("exact", (4, 2)), ("exact", (1, 100))]:
            found, _ = searched(model, tokenizer, method, history, *args, scoring=scoring, prefix=prefix)
            assert [codes for codes, _ in found] == ranked[: args[0]]
            assert dict(found) == pytest.approx({codes: expected[codes] for codes in ranked[: args[0]]}, abs=TOLERANCE)


def test_exact_search_finds_what_beams_miss_and_counts_its_work(save_backbone, tmp_path) -> None:
    index = random_index((6, 9, 4), num_items=150)
    model, tokenizer = make(save_backbone(tmp_path), index)
    inner_nodes = index.trie.num_nodes - index.trie.num_leaves
    missed = 0
    for history in histories_of(index):
        expected = log_probs_of_all(model, tokenizer, history)
        ranked = sorted(expected, key=expected.get, reverse=True)
        beams, num_expanded = searched(model, tokenizer, "beam", history, 3)
        assert num_expanded == 1 + 3 + 3
        exact, num_expanded = searched(model, tokenizer, "exact", history, 3, 3)
        assert [codes for codes, _ in exact] == ranked[:3]
        missed += [codes for codes, _ in beams] != ranked[:3]
        # All prefixes above the third best SID had to be expanded, and the search stops well before the last.
        above = {codes[:depth] for codes in expected for depth in (1, 2)}
        assert 1 + 3 <= num_expanded <= inner_nodes and len(above) + 1 == inner_nodes
        _, everything = searched(model, tokenizer, "exact", history, 10_000, 7)
        assert everything == inner_nodes
    assert missed > 0  # or this test shows nothing


@pytest.mark.parametrize("search", ["beam", "exact"])
def test_exact_and_beam_recommendations_obey_rules(save_backbone, tmp_path, search) -> None:
    index = random_index((3, 4, 3), num_items=30)
    model, tokenizer = make(save_backbone(tmp_path), index)
    histories = histories_of(index)
    allowed = index.item_ids[5:18]
    found = model.recommend(
        tokenizer,
        histories,
        top_k=8,
        num_beams=30,
        search=search,
        allowed_items=allowed,
        exclude_history=True,
        scoring="vocabulary",
    )
    for history, row in zip(histories, found):
        scores = log_probs_of_all(model, tokenizer, history)
        legal = [item for item in allowed if item not in history]
        by_item = {item: scores[tuple(index.codes[index.position_of(item)].tolist())] for item in legal}
        best = sorted(by_item.values(), reverse=True)[:8]
        assert [r.score for r in row] == pytest.approx(best, abs=TOLERANCE)
        assert all(by_item[r.item_id] == pytest.approx(r.score, abs=TOLERANCE) for r in row)


def test_samples_are_drawn_without_replacement_from_the_models_distribution(save_backbone, tmp_path) -> None:
    index = random_index((3, 2, 3), num_items=12)
    model, tokenizer = make(save_backbone(tmp_path), index)
    history, temperature, draws = index.item_ids[:2], 2.0, 4000
    search = SIDSearch(model.backbone, index.trie, tokenizer.sid_token_ids, "catalogue")
    input_ids = torch.tensor([PromptBuilder(tokenizer).sequence_prompt_ids(history)])
    everything = search.sample(input_ids, torch.ones_like(input_ids), 100, temperature=temperature)
    assert everything.leaves[0].sort().values.tolist() == list(range(index.trie.num_leaves))
    probs = torch.zeros(index.trie.num_leaves).scatter(0, everything.leaves[0], everything.scores[0].exp())
    assert probs.sum().item() == pytest.approx(1, abs=1e-5)
    # At temperature 1 the scores are those of the beams.
    plain = search.sample(input_ids, torch.ones_like(input_ids), 100)
    beams = search.beam(input_ids, torch.ones_like(input_ids), 100)
    assert dict(zip(plain.leaves[0].tolist(), plain.scores[0].tolist())) == pytest.approx(
        dict(zip(beams.leaves[0].tolist(), beams.scores[0].tolist())), abs=TOLERANCE
    )

    batch = input_ids.expand(draws, -1)
    generator = torch.Generator().manual_seed(0)
    drawn = search.sample(batch, torch.ones_like(batch), 2, temperature=temperature, generator=generator).leaves
    assert (drawn[:, 0] != drawn[:, 1]).all()
    first = drawn[:, 0].bincount(minlength=len(probs)) / draws
    joint = probs.unsqueeze(1) * probs / (1 - probs.unsqueeze(1))
    second = drawn[:, 1].bincount(minlength=len(probs)) / draws
    spread = 4 * (0.25 / draws) ** 0.5  # four standard deviations of a proportion, at most
    assert (first - probs).abs().max() < spread
    assert (second - joint.fill_diagonal_(0).sum(0)).abs().max() < spread
    assert (first - 1 / len(probs)).abs().max() > spread  # the distribution is not a uniform one


def test_sampling_needs_a_distribution(model, tokenizer) -> None:
    input_ids = torch.tensor([[1, 2]])
    for scoring, temperature, match in [("vocabulary", 1.0, "catalogue"), ("catalogue", 0.0, "positive.*0.0")]:
        search = SIDSearch(model.backbone, tokenizer.sid_index.trie, tokenizer.sid_token_ids, scoring)
        with pytest.raises(ValueError, match=match):
            search.sample(input_ids, torch.ones_like(input_ids), 2, temperature=temperature)


@pytest.mark.parametrize("passes", ["copies", "plain"])
@pytest.mark.parametrize("kind", [*KINDS, "bloom"])
def test_backbones_without_tree_masks_decode_row_by_row(
    save_backbone, tmp_path, monkeypatch, caplog, kind, passes
) -> None:
    index = random_index((4, 5, 6))
    model, tokenizer = make(save_backbone(tmp_path, kind), index)
    histories = histories_of(index)
    expected = generated_beams(model, tokenizer, histories, 5)
    if (kind, passes) != ("bloom", "copies"):  # what it does by nature: its attention reads distances off the columns
        monkeypatch.setattr(probing_tsrec.Probe, "agrees", lambda self, asked: asked == passes)
    logging.get_logger(probing_tsrec.__name__).warning_once.cache_clear()
    with caplog.at_level("WARNING", logger="tsrec_hf"), _propagating(caplog):
        assert_same_beams(beams_of(model, tokenizer, histories, 5), expected)
        for history, row in zip(histories, expected):
            for prefix in (True, False):
                found, _ = searched(model, tokenizer, "beam", history, 5, prefix=prefix)
                assert_same_beams([found], [row])
            every = log_probs_of_all(model, tokenizer, history)
            found, _ = searched(model, tokenizer, "exact", history, 5, 3)
            assert dict(found) == pytest.approx(dict(sorted(every.items(), key=lambda kv: -kv[1])[:5]), abs=TOLERANCE)
        together = model.recommend(tokenizer, histories, top_k=5, num_beams=5, batch_size=5, scoring="vocabulary")
    assert [[r.score for r in row[:1]] for row in together] == [
        [pytest.approx(row[0][1], abs=TOLERANCE)] for row in expected
    ]
    told = [record for record in caplog.records if "cannot decode candidates as a tree" in record.message]
    assert len(told) == 1 and type(model.backbone).__name__ in told[0].message


@contextlib.contextmanager
def _propagating(caplog):
    """The library's loggers may keep their records to themselves; `caplog` listens at the root."""
    logger = logging.get_logger(probing_tsrec.__name__)
    logger.addHandler(caplog.handler)
    propagates, logger.propagate = logger.propagate, False
    yield
    logger.propagate = propagates
    logger.removeHandler(caplog.handler)


@pytest.mark.parametrize("rules", [False, True], ids=["", "rules"])
@pytest.mark.parametrize("scoring", ["vocabulary", "catalogue"])
@pytest.mark.parametrize("kind", KINDS)
def test_pruned_beams_are_the_best_of_all_beams(save_backbone, tmp_path, monkeypatch, kind, scoring, rules) -> None:
    index = random_index((6, 9, 4), num_items=150)
    model, tokenizer = make(save_backbone(tmp_path, kind), index)
    histories = histories_of(index)
    rules = {"allowed_items": index.item_ids[20:60], "exclude_history": True} if rules else {}
    settings = {"scoring": scoring, "batch_size": 5, **rules}
    monkeypatch.setattr(search_tsrec, "USERS_OF_A_PACK", 2)
    read, extend = [], tree_passes_tsrec.PackedPasses.extend
    monkeypatch.setattr(
        tree_passes_tsrec.PackedPasses, "extend", lambda self, *a: read.append(len(a[0])) or extend(self, *a)
    )
    for num_beams, top_ks in ((3, [1]), (30, [1, 4, 10])):
        monkeypatch.setattr(search_tsrec, "MIN_ROWS_TO_PRUNE", 1000)
        whole = model.recommend(tokenizer, histories, top_k=num_beams, num_beams=num_beams, **settings)
        assert not read
        monkeypatch.setattr(search_tsrec, "MIN_ROWS_TO_PRUNE", 1)
        for top_k in top_ks:
            found = model.recommend(tokenizer, histories, top_k=top_k, num_beams=num_beams, **settings)
            for row, expected in zip(found, whole, strict=True):
                assert [r.item_id for r in row] == [r.item_id for r in expected[:top_k]]
                assert [r.score for r in row] == pytest.approx([r.score for r in expected[:top_k]], abs=TOLERANCE)
            # For one SID fewer than the 6 prefixes of the first level and the 30 of the second, for each user.
            assert read and (top_k > 1 or sum(read) < len(histories) * (6 + min(30, num_beams)))
            read.clear()


@pytest.mark.filterwarnings("error::FutureWarning", "error::DeprecationWarning")
@pytest.mark.parametrize("kind", [*KINDS, "bloom"])
def test_no_search_uses_what_will_be_gone(make_recommender, kind) -> None:
    model, tokenizer = make_recommender(kind)
    for settings in ({}, {"search": "exact"}, {"scoring": "catalogue"}):
        assert model.recommend(tokenizer, [["hammer", "nail"]], top_k=2, num_beams=4, **settings)


@pytest.mark.parametrize("scoring", ["vocabulary", "catalogue"])
def test_no_step_waits_for_the_device(model, tokenizer, scoring) -> None:
    # Fake tensors have no values: whatever would have to fetch one raises. The first search tries the backbone out.
    model.recommend(tokenizer, [["hammer"]], top_k=2)
    trie = tokenizer.sid_index.trie
    with FakeTensorMode(allow_non_fake_inputs=True):
        search = SIDSearch(model.backbone, trie, tokenizer.sid_token_ids, scoring, torch.tensor([1, 2]))
        input_ids, attention_mask = torch.ones(2, 5, dtype=torch.long), torch.ones(2, 5, dtype=torch.long)
        assert search.beam(input_ids, attention_mask, num_beams=4).scores.shape == (2, 4)
        if scoring == "catalogue":
            assert search.sample(input_ids, attention_mask, 4).scores.shape == (2, 4)
        with pytest.raises(DynamicOutputShapeException):
            search.exact(input_ids[:1], attention_mask[:1], 2, 2)


def test_catalogue_scoring_computes_no_other_logits(model, tokenizer) -> None:
    widths = []
    model.recommend(tokenizer, [["hammer"]], top_k=2)  # the first search tries the backbone out
    model.get_output_embeddings().register_forward_hook(lambda module, args, output: widths.append(output.shape[-1]))
    before = model.get_output_embeddings().weight.clone()
    model.recommend(tokenizer, [["hammer"]], top_k=2, num_beams=4)
    assert set(widths) == {sum(map(len, tokenizer.sid_token_ids))}
    assert torch.equal(model.get_output_embeddings().weight, before)
    model.recommend(tokenizer, [["hammer"]], top_k=2, num_beams=4, scoring="vocabulary")
    assert widths[-1] == len(before)


def test_batches_hold_users_of_like_length_within_their_budget() -> None:
    lengths = [3, 30, 3, 12, 30, 6]
    assert list(batches_of(lengths, 2, 10_000, 100)) == [[1, 4], [3, 5], [0, 2]]
    assert list(batches_of(lengths, 16, 10_000, 100)) == [[1, 4, 3, 5, 0, 2]]
    # 30 + 10 tokens a user in the first batch, 12 + 10 and 6 + 10 later.
    assert list(batches_of(lengths, 16, 80, 10)) == [[1, 4], [3, 5, 0], [2]]
    # A user who is above the budget alone is decoded alone.
    assert list(batches_of(lengths, 16, 1, 10)) == [[1], [4], [3], [5], [0], [2]]


def test_any_budget_gives_the_same_lists_and_holds_one_batch_at_a_time(save_backbone, tmp_path, monkeypatch) -> None:
    index = random_index((4, 5, 6))
    model, tokenizer = make(save_backbone(tmp_path), index)
    histories = histories_of(index) * 4
    expected = model.recommend(tokenizer, histories, top_k=5, num_beams=6)
    made, shapes = [], []
    history_ids, beam = PromptBuilder.history_ids, SIDSearch.beam
    monkeypatch.setattr(PromptBuilder, "history_ids", lambda self, h: made.append(h) or history_ids(self, h))

    def watched(self, input_ids, *args, **kwargs):
        assert len(made) == sum(shapes) + len(input_ids)  # prompts of this batch, and no later one's
        shapes.append(len(input_ids))
        return beam(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(SIDSearch, "beam", watched)
    found = model.recommend(tokenizer, histories, top_k=5, num_beams=6, max_batch_tokens=120)
    assert sum(shapes) == 20 and max(shapes) > 1 and len(set(shapes)) > 1
    for row, expected_row in zip(found, expected):
        assert [r.item_id for r in row] == [r.item_id for r in expected_row]
        assert [r.score for r in row] == pytest.approx([r.score for r in expected_row], abs=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_training_goes_on_after_recommending(save_backbone, tmp_path, kind) -> None:
    # The search runs in inference mode, whose tensors a backward pass would refuse if the model kept any.
    index = random_index((3, 4))
    model, tokenizer = make(save_backbone(tmp_path, kind), index)
    input_ids, attention_mask = encode(tokenizer, [index.item_ids[:3]])
    model.recommend(tokenizer, [index.item_ids[:3]], top_k=2)
    model.train()(input_ids=input_ids, attention_mask=attention_mask, labels=input_ids).loss.backward()
    assert model.get_input_embeddings().weight.grad.abs().sum() > 0


class TestTreeMask:
    """The mask and the positions that a tree of two and three nodes behind a padded prompt of two tokens is given."""

    def seen(self, **config) -> list[dict]:
        inputs = []

        def forward(**kwargs):
            inputs.append(kwargs)
            return torch.zeros(1, 1, 1)

        backbone = SimpleNamespace(
            config=SimpleNamespace(get_text_config=lambda: SimpleNamespace(**config)), dtype=torch.float32
        )
        decoder = tree_passes_tsrec.TreePasses(backbone, forward, torch.tensor([[9, 5, 6]]), torch.tensor([[0, 1, 1]]))
        decoder.prompt_logits()
        decoder.extend(torch.tensor([[0, 0]]), torch.tensor([[7, 8]]))
        decoder.extend(torch.tensor([[2, 1, 2]]), torch.tensor([[7, 8, 9]]))
        decoder.extend(torch.tensor([[5, 0]]), torch.tensor([[7, 8]]))
        return inputs

    def visible(self, mask: torch.Tensor) -> list[list[int]]:
        assert set(mask.unique().tolist()) <= {0.0, torch.finfo(mask.dtype).min}
        return (mask[0, 0] == 0).int().tolist()

    def test_worked_by_hand(self) -> None:
        prompt, first, second, third = self.seen()
        assert prompt["position_ids"].tolist() == [[0, 0, 1]]
        assert self.visible(prompt["attention_mask"]) == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
        assert first["position_ids"].tolist() == [[2, 2]]
        assert self.visible(first["attention_mask"]) == [[0, 1, 1, 1, 0], [0, 1, 1, 0, 1]]
        # Nodes 3, 4, 5 follow nodes 2, 1 and 2.
        assert second["position_ids"].tolist() == [[3, 3, 3]]
        assert self.visible(second["attention_mask"]) == [
            [0, 1, 1, 0, 1, 1, 0, 0],
            [0, 1, 1, 1, 0, 0, 1, 0],
            [0, 1, 1, 0, 1, 0, 0, 1],
        ]
        # One of the last two follows node 5, hence node 2, and the other the prompt itself.
        assert third["position_ids"].tolist() == [[4, 2]]
        assert self.visible(third["attention_mask"]) == [
            [0, 1, 1, 0, 1, 0, 0, 1, 1, 0],
            [0, 1, 1, 0, 0, 0, 0, 0, 0, 1],
        ]

    def test_window_counts_positions(self) -> None:
        kinds = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 2}
        prompt, first, second, third = [inputs["attention_mask"] for inputs in self.seen(**kinds)]
        assert set(first) == {"sliding_attention", "full_attention"}
        # Nodes at position 2 see positions 1 and 2: the prompt's last token and themselves.
        assert self.visible(first["sliding_attention"]) == [[0, 0, 1, 1, 0], [0, 0, 1, 0, 1]]
        assert self.visible(first["full_attention"]) == [[0, 1, 1, 1, 0], [0, 1, 1, 0, 1]]
        # Nodes at position 3 see their parent and themselves.
        assert self.visible(second["sliding_attention"])[0] == [0, 0, 0, 0, 1, 1, 0, 0]
        assert self.visible(third["sliding_attention"])[1] == [0, 0, 1, 0, 0, 0, 0, 0, 0, 1]
