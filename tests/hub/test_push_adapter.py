"""An adapter pushed alone: a repository of its own finds its tokenizer, its index and, on the Hub, its base."""

import pytest
from peft import AutoPeftModelForCausalLM
from trl import ModelConfig

from tsrec_hf import TSRecForCausalLM, TSRecSFTConfig, TSRecSFTTrainer, TSRecTokenizer, build_sequence_rows
from tsrec_hf.hub import load_recommender
from tsrec_hf.trainers import lora_config


def test_an_adapter_pushed_alone(hub, model, tokenizer, dataset, tmp_path):
    for part in (model, tokenizer):
        part.push_to_hub("me/base")
    model = TSRecForCausalLM.from_pretrained("me/base")
    args = TSRecSFTConfig(
        tmp_path / "out",
        hub_model_id="me/adapter",
        max_steps=1,
        learning_rate=0.1,
        report_to="none",
        bf16=False,
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = TSRecSFTTrainer(
        model,
        args,
        train_dataset=build_sequence_rows(dataset.train, tokenizer),
        processing_class=tokenizer,
        peft_config=lora_config(model, tokenizer, ModelConfig(use_peft=True)),
    )
    trainer.train()
    trainer.push_to_hub()
    files = hub.repos["me/adapter"]["main"]
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(files)
    assert {"tokenizer.json", "tokenizer_config.json", "sid_index.safetensors", "README.md"} <= set(files)
    assert "model.safetensors" not in files and not any(name.startswith("_base") for name in files)

    theirs = TSRecTokenizer.from_pretrained("me/adapter")
    assert theirs.sid_index.fingerprint == tokenizer.sid_index.fingerprint
    merged, its_tokenizer = load_recommender("me/adapter")
    beside = AutoPeftModelForCausalLM.from_pretrained("me/adapter")
    scores = [
        [item.score for item in one.recommend(tokens, [["hammer"]], top_k=5)[0]]
        for one, tokens in ((trainer.recommender, tokenizer), (merged, its_tokenizer), (beside, theirs))
    ]
    assert scores[1] == pytest.approx(scores[0], abs=1e-4) and scores[2] == pytest.approx(scores[0], abs=1e-4)
    before = [item.score for item in TSRecForCausalLM.from_pretrained("me/base").recommend(theirs, [["hammer"]], 5)[0]]
    assert scores[0] != pytest.approx(before, abs=1e-3)
