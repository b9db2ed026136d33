import hashlib
import json

import pytest
from transformers import AutoTokenizer

from tsrec_hf import PromptBuilder, TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.models import PROMPT_VERSION
from tsrec_hf.models.prompting_tsrec import MAX_HISTORY


def every_prompt(prompts: PromptBuilder) -> dict[str, str]:
    return {
        "sequence": prompts.sequence_prompt(["hammer", "nail"]),
        "title": prompts.title_prompt("saw"),
        "item": prompts.item_prompt("hand saw"),
        "history_title": prompts.history_title_prompt(["hammer"]),
        "description": prompts.description_prompt("<a_0>"),
        "token": prompts.token_prompt("tools."),
        "keywords": prompts.keywords_prompt("<a_0>"),
        "text_answer": prompts.text_answer("hand saw"),
        "sid": prompts.sid("saw"),
    }


WORDING = {
    "sequence": "Items chosen in order:<a_0><b_0><c_0><a_0><b_1><c_0>",
    "title": "<a_0><b_0><c_1> is titled:",
    "item": "The item titled: hand saw is:",
    "history_title": "Items chosen in order:<a_0><b_0><c_0> The title of the next:",
    "description": "<a_0> means:",
    "token": "Which token means: tools. It is:",
    "keywords": "Keywords for <a_0>:",
    "text_answer": " hand saw</s>",
    "sid": "<a_0><b_0><c_1>",
}


@pytest.fixture
def bos_tokenizer(save_backbone, tmp_path, sid_index):
    return TSRecTokenizer.from_backbone(save_backbone(tmp_path / "bos", add_bos=True), sid_index)


def test_wording(tokenizer) -> None:
    assert every_prompt(PromptBuilder(tokenizer)) == WORDING


def test_wording_belongs_to_its_version() -> None:
    # Whoever changes the wording must raise PROMPT_VERSION, since checkpoints are trained on it; then renew both here.
    digest = hashlib.sha256(json.dumps(WORDING).encode()).hexdigest()[:12]
    assert (PROMPT_VERSION, MAX_HISTORY, digest) == ("1", 10, "e3109d1d5162")


@pytest.mark.parametrize("length", [1, 2, 7, 10])
def test_ids_are_those_of_the_string(tokenizer, bos_tokenizer, length) -> None:
    for candidate in (tokenizer, bos_tokenizer):
        prompts = PromptBuilder(candidate)
        history = (candidate.sid_index.item_ids * 2)[:length]
        encoded = candidate(prompts.sequence_prompt(history), add_special_tokens=False).input_ids
        assert prompts.sequence_prompt_ids(history) == encoded


def test_the_sid_follows_directly(tokenizer, bos_tokenizer) -> None:
    for candidate in (tokenizer, bos_tokenizer):
        prompts = PromptBuilder(candidate)
        for item_id in candidate.sid_index.item_ids:
            text = prompts.sequence_prompt(["hammer", "pear"]) + prompts.sid(item_id)
            expected = prompts.sequence_prompt_ids(["hammer", "pear"]) + candidate.encode_sids([item_id])[0]
            assert candidate(text, add_special_tokens=False).input_ids == expected


def test_a_start_token_is_part_of_the_prompt(bos_tokenizer) -> None:
    prompts = PromptBuilder(bos_tokenizer)
    assert bos_tokenizer("hammer").input_ids[0] == bos_tokenizer.bos_token_id
    expected = {name: f"<s>{text}" if name not in ("text_answer", "sid") else text for name, text in WORDING.items()}
    assert every_prompt(prompts) == expected
    ids = prompts.sequence_prompt_ids(["hammer"])
    assert ids[0] == bos_tokenizer.bos_token_id and ids.count(bos_tokenizer.bos_token_id) == 1
    # What the backbone's own tokenizer would have put before the same text.
    assert ids == bos_tokenizer(WORDING["sequence"].split("<")[0] + prompts.sid("hammer")).input_ids


def test_a_start_token_survives_save_and_load(bos_tokenizer, tmp_path) -> None:
    bos_tokenizer.save_pretrained(tmp_path / "saved")
    for load in (TSRecTokenizer.from_pretrained, AutoTokenizer.from_pretrained):
        loaded = PromptBuilder(load(tmp_path / "saved"))
        assert loaded.sequence_prompt_ids(["nail"]) == PromptBuilder(bos_tokenizer).sequence_prompt_ids(["nail"])


def test_a_start_token_that_the_backbone_does_not_add_is_left_out(tokenizer) -> None:
    assert tokenizer.bos_token == "<s>"
    assert tokenizer.bos_token_id not in PromptBuilder(tokenizer).sequence_prompt_ids(["hammer"])


def test_the_newest_items_are_kept(tokenizer, backbone_dir) -> None:
    items = tokenizer.sid_index.item_ids * 2  # 16
    prompts = PromptBuilder(tokenizer)
    assert list(prompts.kept_history(items)) == items[6:]
    assert prompts.sequence_prompt(items) == "Items chosen in order:" + "".join(map(prompts.sid, items[6:]))
    assert prompts.sequence_prompt_ids(items) == prompts.sequence_prompt_ids(items[-10:])
    short = PromptBuilder(TSRecTokenizer.from_backbone(backbone_dir, tokenizer.sid_index, max_history=2))
    assert short.sequence_prompt(["apple", "hammer", "nail"]) == WORDING["sequence"]
    assert short.history_title_prompt(["apple", "saw", "hammer"]).count("<a_") == 2
    assert items == tokenizer.sid_index.item_ids * 2  # The caller's list is left alone.


@pytest.mark.parametrize("method", ["sequence_prompt", "sequence_prompt_ids", "history_title_prompt"])
def test_errors(tokenizer, method) -> None:
    build = getattr(PromptBuilder(tokenizer), method)
    with pytest.raises(ValueError, match="history of at least one item, but found an empty one.*popularity"):
        build([])
    with pytest.raises(TypeError, match="list of item ids, but found the string 'hammer'"):
        build("hammer")
    with pytest.raises(KeyError, match="'spoon' is not among the 8 items"):
        build(["hammer", "spoon"])
    # Also where it would have been cut off: an unknown item in the dropped part is no concern.
    assert build(["spoon"] + ["hammer"] * 10) == build(["hammer"] * 10)


@pytest.mark.parametrize("max_history", [0, -1, 2.5, True])
def test_max_history(backbone_dir, sid_index, max_history) -> None:
    with pytest.raises(ValueError, match=f"`max_history` as a whole number of at least 1, but found {max_history}"):
        TSRecTokenizer.from_backbone(backbone_dir, sid_index, max_history=max_history)


def test_another_prompt_version(tokenizer, backbone_dir, tmp_path) -> None:
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tsrec_prompt_version"] == PROMPT_VERSION
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "tsrec_prompt_version": "0"}))
    other = TSRecTokenizer.from_pretrained(tmp_path)
    assert other.prompt_version == "0"
    with pytest.raises(
        ValueError, match=f"prompt version '0', but this code builds prompts of version '{PROMPT_VERSION}'"
    ):
        PromptBuilder(other)
    # A model made with such a tokenizer is refused as well, rather than prompted with other words.
    model = TSRecForCausalLM.from_backbone(backbone_dir, other)
    with pytest.raises(ValueError, match="trained with prompts of version '0', but the tokenizer says '1'"):
        model.recommend(tokenizer, [["hammer"]])
