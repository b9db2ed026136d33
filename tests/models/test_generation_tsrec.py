import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from tsrec_hf.models import PromptBuilder, SIDIndex, TSRecForCausalLM, TSRecTokenizer, tree_beam_search
from tsrec_hf.models.generation_tsrec import TreeMask


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
    level_token_ids = [torch.tensor(ids) for ids in tokenizer.sid_token_ids]
    beams = tree_beam_search(model.backbone, *inputs, index.trie, level_token_ids, num_beams)
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
    level_token_ids = [torch.tensor(ids) for ids in tokenizer.sid_token_ids]
    beams = tree_beam_search(model.backbone, input_ids, attention_mask, index.trie, level_token_ids, num_beams=2)
    weight = torch.ones(1, requires_grad=True)
    (weight * beams.scores).sum().backward()  # Inference tensors would be refused here.
    assert weight.grad.item() == pytest.approx(beams.scores.sum().item())


@pytest.mark.parametrize("implementation", ["flash_attention_2", "flex_attention"])
def test_attention_without_additive_masks_is_refused(model, tokenizer, implementation) -> None:
    model.backbone.config._attn_implementation = implementation
    with pytest.raises(ValueError, match=rf"additive mask.*{implementation}.*attn_implementation='sdpa'"):
        model.recommend(tokenizer, [["hammer"]], top_k=1)


def test_layers_without_a_mask_are_refused(model, tokenizer) -> None:
    model.backbone.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ValueError, match="full and sliding attention.*'linear_attention'"):
        model.recommend(tokenizer, [["hammer"]], top_k=1)


class TestTreeMask:
    def visible(self, mask: torch.Tensor) -> list[list[int]]:
        assert set(mask.unique().tolist()) <= {0.0, torch.finfo(mask.dtype).min}
        return (mask[0, 0] == 0).int().tolist()

    def test_worked_by_hand(self) -> None:
        mask = TreeMask(torch.tensor([[0, 1, 1]]), LlamaConfig(), torch.float32)
        # Prompt: padding, x, y, at positions 0, 0, 1. First level: two beams, at position 2.
        assert mask.prompt_positions.tolist() == [[0, 0, 1]]
        mask.grow(torch.tensor([[0, 0]]))
        assert mask.position_ids().tolist() == [[2, 2]]
        assert self.visible(mask.attention_mask()) == [
            [0, 1, 1, 1, 0],
            [0, 1, 1, 0, 1],
        ]
        # Second level: three beams, of the second, the first and the second beam.
        mask.grow(torch.tensor([[1, 0, 1]]))
        assert mask.position_ids().tolist() == [[3, 3, 3]]
        assert self.visible(mask.attention_mask()) == [
            [0, 1, 1, 0, 1, 1, 0, 0],
            [0, 1, 1, 1, 0, 0, 1, 0],
            [0, 1, 1, 0, 1, 0, 0, 1],
        ]
        # Third level: two beams, of the third and the first, hence both of the second of the first level.
        mask.grow(torch.tensor([[2, 0]]))
        assert mask.position_ids().tolist() == [[4, 4]]
        assert self.visible(mask.attention_mask()) == [
            [0, 1, 1, 0, 1, 0, 0, 1, 1, 0],
            [0, 1, 1, 0, 1, 1, 0, 0, 0, 1],
        ]

    def test_window_counts_positions(self) -> None:
        config = LlamaConfig()
        config.sliding_window = 2
        config.layer_types = ["sliding_attention", "full_attention"]
        mask = TreeMask(torch.tensor([[0, 1, 1]]), config, torch.float32)
        mask.grow(torch.tensor([[0, 0]]))
        masks = mask.attention_mask()
        assert set(masks) == {"sliding_attention", "full_attention"}
        # Beams at position 2 see positions 1 and 2: y and themselves.
        assert self.visible(masks["sliding_attention"]) == [[0, 0, 1, 1, 0], [0, 0, 1, 0, 1]]
        assert self.visible(masks["full_attention"]) == [[0, 1, 1, 1, 0], [0, 1, 1, 0, 1]]
        mask.grow(torch.tensor([[1]]))
        # The beam at position 3 sees its parent and itself, the third level's its parent and itself alone.
        assert self.visible(mask.attention_mask()["sliding_attention"]) == [[0, 0, 0, 0, 1, 1]]
        mask.grow(torch.tensor([[0]]))
        assert self.visible(mask.attention_mask()["sliding_attention"]) == [[0, 0, 0, 0, 0, 1, 1]]
