import warnings

import pytest
import torch
from transformers import HfArgumentParser

from tsrec_hf.trainers import TSRecSFTConfig


def test_turns_to_the_cpu_where_there_is_nothing_else(tmp_path):
    assert TSRecSFTConfig(str(tmp_path)).use_cpu == (not torch.accelerator.is_available())


@pytest.mark.parametrize(
    ("name", "units", "is_faster"),
    [
        ("AMD Zen 4", {"avx512_bf16": True}, True),
        ("Intel Xeon", {"avx512_bf16": True, "amx_bf16": True}, True),
        # As fast as float32 on paper, and slower in oneDNN's kernels.
        ("Intel Xeon", {"avx512_bf16": True, "amx_bf16": False}, False),
        ("AMD Zen 3", {"avx512_bf16": False}, False),
        ("", {"bf16": True}, True),
        ("", {}, False),
    ],
)
def test_bfloat16_where_the_processor_is_faster_with_it(tmp_path, monkeypatch, caplog, name, units, is_faster):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": name, "avx2": True} | units)
    assert TSRecSFTConfig(str(tmp_path), use_cpu=True).bf16 is is_faster
    assert not TSRecSFTConfig(str(tmp_path), use_cpu=True, bf16=False).bf16 and not caplog.messages
    assert TSRecSFTConfig(str(tmp_path), use_cpu=True, bf16=True).bf16
    assert ("slower than in float32" in caplog.text) is not is_faster


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"freeze_backbone": True, "weight_decay": 0.1},
            r"weight_decay=0.1 would shrink them. Set `weight_decay=0.0`",
        ),
        ({"packing": True}, "`packing=False`"),
        ({"padding_free": True}, "`padding_free=False`"),
        ({"eval_num_users": -1}, "`eval_num_users` of at least 0.*but found -1, 20 and 16"),
        ({"eval_num_beams": 0}, "but found 256, 0 and 16"),
        ({"eval_recommend_batch_size": 0}, "but found 256, 20 and 0"),
        ({"task_weights": {"title": -1.0}}, "a number of at least 0"),
        ({"task_weights": "title=2"}, "or a string of JSON.*but found 'title=2'"),
        ({"task_weights": {"title": 2.0}, "loss_type": "dft"}, "loss_type='dft'"),
        ({"task_weights": {"title": 2.0}, "label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1"),
    ],
)
def test_errors(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        TSRecSFTConfig(str(tmp_path), **arguments)


def test_weight_decay_is_allowed_where_all_is_trained(tmp_path):
    assert TSRecSFTConfig(str(tmp_path), weight_decay=0.1).weight_decay == 0.1
    assert TSRecSFTConfig(str(tmp_path), freeze_backbone=True).weight_decay == 0.0


def test_task_weights_from_the_command_line(tmp_path):
    line = ["--output_dir", str(tmp_path), "--task_weights", '{"title": 0.5, "alignment": 2}']
    [args] = HfArgumentParser(TSRecSFTConfig).parse_args_into_dataclasses(line)
    assert args.task_weights == {"title": 0.5, "alignment": 2}


def test_every_setting_has_a_word_of_help():
    fields = TSRecSFTConfig.__dataclass_fields__
    for name in ("eval_num_users", "eval_num_beams", "eval_recommend_batch_size", "task_weights", "freeze_backbone"):
        assert fields[name].metadata["help"]


def test_defaults_warn_of_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        args = TSRecSFTConfig(str(tmp_path), report_to="none")
        assert args.activation_checkpointing and args.gradient_checkpointing
        assert not TSRecSFTConfig(str(tmp_path), activation_checkpointing=False).gradient_checkpointing
