"""Secrets are written nowhere: every file and log of a run is searched for them."""

import logging
import pickle
import zipfile
from pathlib import Path

import pytest

from tsrec_hf.data import build_grpo_rows, build_sequence_rows
from tsrec_hf.rewards import exact_match_reward
from tsrec_hf.semantics import InferenceClientTeacher
from tsrec_hf.trainers import TSRecGRPOConfig, TSRecGRPOTrainer, TSRecSFTConfig, TSRecSFTTrainer


TOKEN, PASSWORD = "hf_tokenthatnobodymaysee", "passwordthatnobodymaysee"


def contents(folder: Path):
    """The bytes of all files, those in archives unpacked."""
    for path in filter(Path.is_file, folder.rglob("*")):
        yield path, path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                yield from ((path / name, packed.read(name)) for name in packed.namelist())


@pytest.mark.parametrize("method", ["SFT", "GRPO"])
def test_no_file_and_no_log_of_a_run_holds_the_token(
    tmp_path, model, tokenizer, dataset, caplog, capfd, method: str
) -> None:
    settings = {
        "output_dir": str(tmp_path),
        "hub_token": TOKEN,
        "max_steps": 1,
        "save_steps": 1,
        "logging_steps": 1,
        "report_to": "tensorboard",
        "bf16": False,
        "use_cpu": True,
    }
    with caplog.at_level(logging.DEBUG):
        if method == "SFT":
            rows = build_sequence_rows(dataset.train, tokenizer)
            args = TSRecSFTConfig(**settings)
            trainer = TSRecSFTTrainer(model, args, train_dataset=rows, processing_class=tokenizer)
        else:
            rows = build_grpo_rows(dataset.train, tokenizer)
            args = TSRecGRPOConfig(**settings, num_generations=4, per_device_train_batch_size=4, beta=0.1)
            trainer = TSRecGRPOTrainer(model, exact_match_reward, args, train_dataset=rows, processing_class=tokenizer)
        trainer.train()
        trainer.save_model()
        print(trainer.args)
    assert trainer.args.hub_token == TOKEN  # where it is needed, it is there
    searched = dict(contents(tmp_path))
    assert any("training_args.bin" in str(path) for path in searched) and any("events" in str(p) for p in searched)
    for path, content in searched.items():
        assert TOKEN.encode() not in content, path
    out, err = capfd.readouterr()
    assert TOKEN not in out + err + caplog.text
    assert pickle.loads(pickle.dumps(trainer.args)).hub_token is None


def test_a_password_in_an_address_is_in_no_message(caplog) -> None:
    address = f"http://me:{PASSWORD}@127.0.0.1:9/v1"
    teacher = InferenceClientTeacher("m", base_url=address, max_tries=1, max_failures=1, timeout=2)
    with caplog.at_level(logging.DEBUG), pytest.raises(ConnectionError) as error:
        teacher.describe({"<a_0>": [{"title": "nut"}]})
    told = "".join(map(str, (error.value, error.value.__cause__, teacher.identity(), caplog.text)))
    assert PASSWORD not in told and "127.0.0.1:9" in told
    for wrong in (f"me:{PASSWORD}@host", f"ftp://me:{PASSWORD}@host/v1"):
        with pytest.raises(ValueError, match="Expected `base_url` such as") as error:
            InferenceClientTeacher("m", base_url=wrong)
        assert PASSWORD not in str(error.value)
    with pytest.raises(ValueError, match="either `token` or a password"):
        InferenceClientTeacher("m", base_url=address, token="t")
