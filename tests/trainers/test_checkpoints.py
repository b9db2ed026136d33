"""Checkpoints are whole or absent: a process dies at every stage of a save, and the run goes on."""

import copy
import errno
import json
import logging
import os
import shutil
import subprocess
import sys

import pytest
import torch
import transformers
from transformers import Trainer

from tsrec_hf.data import build_grpo_rows, build_sequence_rows
from tsrec_hf.models import TSRecTokenizer
from tsrec_hf.rewards import prefix_reward
from tsrec_hf.trainers import TSRecGRPOConfig, TSRecGRPOTrainer, TSRecSFTConfig, TSRecSFTTrainer, checkpoints
from tsrec_hf.trainers.checkpoints import MANIFEST, UNFINISHED, last_whole, why_not_whole


COMMON = {
    "max_steps": 2,
    "save_strategy": "steps",
    "save_steps": 1,
    "save_total_limit": 1,
    "learning_rate": 0.01,
    "report_to": "none",
    "bf16": False,
    "use_cpu": True,
    "disable_tqdm": True,
}


@pytest.fixture
def make_trainer(model, tokenizer, dataset, tmp_path):
    def make(method="sft", processing_class=tokenizer, **arguments):
        settings = {"output_dir": str(tmp_path / "out"), **COMMON, **arguments}
        kwargs = {"model": copy.deepcopy(model), "processing_class": processing_class}
        if method == "sft":
            rows = build_sequence_rows(dataset.train, processing_class)
            return TSRecSFTTrainer(args=TSRecSFTConfig(**settings), train_dataset=rows, **kwargs)
        settings = {"num_generations": 2, "per_device_train_batch_size": 2, "beta": 0.1, **settings}
        rows = build_grpo_rows(dataset.train, processing_class)
        args = TSRecGRPOConfig(**settings)
        return TSRecGRPOTrainer(reward_funcs=prefix_reward, args=args, train_dataset=rows, **kwargs)

    return make


def weights_of(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def passed_elsewhere(request) -> bool:
    """
    Runs the test in a process of one thread, unless this is one: a fork of a process whose OpenMP threads have worked
    waits for them for ever.
    """
    if os.environ.get("OMP_NUM_THREADS") == "1":
        return False
    command = [sys.executable, "-m", "pytest", "-q", "-m", "slow or not slow", "-p", "no:cacheprovider"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run([*command, request.node.nodeid], env=environment, cwd=request.config.rootpath)
    assert run.returncode == 0
    return True


def train_and_die(trainer, folder, first_step, last_event, report):
    """
    Trains in a process of its own, which dies at a given call that writes, renames or deletes below `folder`, counted
    from the save of `first_step` on. Reports the calls.
    """
    events = []

    def watch(event, arguments):
        if event not in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"):
            return
        if trainer.state.global_step < first_step or folder not in str(arguments[0]):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if str(arguments[0]).endswith(".py"):  # as good as any other of the many
            return
        if len(events) == last_event:
            os._exit(9)
        events.append(f"{event} {os.path.basename(str(arguments[0]))}")

    child = os.fork()
    if child == 0:
        try:
            sys.addaudithook(watch)
            save = torch.save

            def watched(value, path, *args, **kwargs):  # torch writes without Python's knowledge
                sys.audit("open", str(path), "w", os.O_WRONLY)
                return save(value, path, *args, **kwargs)

            torch.save = watched
            trainer.train()
            with open(report, "w") as file:
                json.dump(events, file)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(
    ("method", "first_step", "every"),
    [
        ("sft", 2, 12),
        ("grpo", 2, 24),
        pytest.param("sft", 1, 1, marks=pytest.mark.slow),
        pytest.param("grpo", 2, 1, marks=pytest.mark.slow),
    ],
)
def test_a_process_that_dies_in_a_save_leaves_a_whole_checkpoint(
    request, make_trainer, tmp_path, method, first_step, every
):
    if passed_elsewhere(request):
        return
    report = tmp_path / "events.json"
    whole = make_trainer(method, output_dir=str(tmp_path / "whole"))
    assert train_and_die(whole, str(tmp_path / "whole"), first_step, None, report) == 0
    events = json.loads(report.read_text())
    assert any(event.startswith("os.rename") for event in events) and len(events) > 10
    expected = make_trainer(method, output_dir=str(tmp_path / "expected"))
    expected.train()
    renames = {place for place, event in enumerate(events) if "rename" in event or "rmtree" in event}
    assert {"open optimizer.pt", "open scheduler.pt", "open rng_state.pth"} <= set(events)
    for place in sorted(renames | set(range(0, len(events), every))):
        out = tmp_path / f"out-{place}"
        assert train_and_die(make_trainer(method, output_dir=str(out)), str(out), first_step, place, report) == 9
        found, _ = last_whole(out)
        # Until its list is written a checkpoint is not finished, whatever else of it is there.
        unfinished = [path for path in (out / UNFINISHED).glob("checkpoint-*") if (path / MANIFEST).is_file()]
        published = [path for path in unfinished if why_not_whole(path) is None]
        # A first save that dies leaves nothing, since nothing was there.
        assert found is not None or published or first_step == 1, events[place]
        if found is None and not published:
            continue
        if place in renames or every == 1:
            resumed = make_trainer(method, output_dir=str(out))
            resumed.train(resume_from_checkpoint="last")
            assert torch.equal(weights_of(resumed), weights_of(expected)), events[place]
        shutil.rmtree(out)


@pytest.fixture
def run(make_trainer, tmp_path):
    """The folder of a run with the checkpoints of three steps."""
    make_trainer(max_steps=3, save_total_limit=None).train()
    return tmp_path / "out"


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def test_a_run_leaves_nothing_unfinished(run):
    assert sorted(path.name for path in run.glob("checkpoint-*")) == [f"checkpoint-{step}" for step in (1, 2, 3)]
    assert not (run / UNFINISHED).exists()
    listed = json.loads((run / "checkpoint-3" / MANIFEST).read_text())["files"]
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= set(listed)


@pytest.mark.parametrize("listed", [True, False], ids=["with a list", "without"])
def test_files_that_are_missing_or_truncated_are_named(run, make_trainer, listed, tmp_path):
    names = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
    for name in names:
        for spoil, message in ((os.remove, "is missing"), (truncate, "bytes of|is truncated|is damaged")):
            broken = tmp_path / "broken"
            shutil.copytree(run / "checkpoint-3", broken)
            if not listed:
                (broken / MANIFEST).unlink()
            spoil(broken / name)
            assert name in why_not_whole(broken)
            if (name, spoil) in (("optimizer.pt", os.remove), ("model.safetensors", truncate)):
                with pytest.raises(ValueError, match=f"whole checkpoint in .*broken, but {name} .*({message})"):
                    make_trainer().train(resume_from_checkpoint=str(broken))
            shutil.rmtree(broken)


@pytest.mark.parametrize("last", [True, "true", "last"])
def test_the_newest_whole_checkpoint_is_taken(run, make_trainer, caplog, last):
    (run / "checkpoint-3" / "scheduler.pt").unlink()
    truncate(run / "checkpoint-2" / "optimizer.pt")
    trainer = make_trainer(max_steps=4, save_total_limit=None)
    with caplog.at_level(logging.INFO, logger="tsrec_hf"):
        trainer.train(resume_from_checkpoint=last)
    assert "checkpoint-3 (scheduler.pt is missing" in caplog.text
    assert "checkpoint-2 (optimizer.pt has" in caplog.text
    assert "Going on from" in caplog.text and trainer.state.global_step == 4
    assert why_not_whole(run / "checkpoint-3") is None  # saved anew


def test_no_checkpoint_to_go_on_from(make_trainer, tmp_path):
    with pytest.raises(ValueError, match="Expected a whole checkpoint in .*out, but found none. Leave"):
        make_trainer().train(resume_from_checkpoint="last")
    (tmp_path / "out" / "checkpoint-5").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"found none; skipped: .*checkpoint-5 \(trainer_state.json is missing\)"):
        make_trainer().train(resume_from_checkpoint=True)
    with pytest.raises(FileNotFoundError, match="Expected a checkpoint in nowhere, but there is no such folder"):
        make_trainer().train(resume_from_checkpoint="nowhere")


def test_a_new_start_is_one(make_trainer, tmp_path):
    args = TSRecSFTConfig(str(tmp_path), resume_from_checkpoint="false", bf16=False)
    assert args.resume_from_checkpoint is None
    trainer = make_trainer(save_strategy="no")
    assert trainer.train(resume_from_checkpoint=False).global_step == 2


def test_a_checkpoint_of_another_catalogue_is_refused(run, make_trainer, backbone_dir, sid_index):
    other = sid_index.without_items(["cheese"])
    tokenizer = TSRecTokenizer.from_backbone(backbone_dir, other)
    trainer = make_trainer()
    trainer.processing_class = tokenizer
    message = r"catalogue that is trained on \(SIDIndex\(7 items.*checkpoint-3/sid_index.safetensors is of another one"
    with pytest.raises(ValueError, match=message):
        trainer.train(resume_from_checkpoint=str(run / "checkpoint-3"))


def test_a_checkpoint_without_optimiser_is_no_start(make_trainer, tmp_path):
    make_trainer(save_only_model=True).train()
    with pytest.raises(ValueError, match=r"optimizer.pt is missing \(`save_only_model=True`"):
        make_trainer().train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))


FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", MANIFEST)
QUICK = (("sft", "model.safetensors"), ("grpo", MANIFEST))


@pytest.mark.parametrize(
    ("method", "name"),
    [
        pytest.param(method, name, marks=() if (method, name) in QUICK else pytest.mark.slow)
        for method in ("sft", "grpo")
        for name in FILES
    ],
)
def test_a_full_disk_in_a_save_leaves_the_last_whole_checkpoint(make_trainer, tmp_path, monkeypatch, method, name):
    """Whichever file is the one that no longer fits."""

    def full(write, place):
        def call(*arguments, **kwargs):
            if name in str(arguments[place]) and "checkpoint-2" in str(arguments[place]):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(*arguments, **kwargs)

        return call

    monkeypatch.setattr(torch, "save", full(torch.save, 1))
    monkeypatch.setattr(checkpoints, "write_text", full(checkpoints.write_text, 0))
    monkeypatch.setattr(
        transformers.modeling_utils, "safe_save_file", full(transformers.modeling_utils.safe_save_file, 1)
    )
    with pytest.raises(OSError, match="No space left on device") as error:
        make_trainer(method).train()
    assert "step 2 was not saved; the last whole one: " in error.value.__notes__[0]
    found, _ = last_whole(tmp_path / "out")
    assert str(found).endswith("checkpoint-1") and why_not_whole(found) is None


def test_what_is_pushed_is_whole_and_has_its_requirements(make_trainer, tmp_path, monkeypatch):
    pushed = []
    monkeypatch.setattr(Trainer, "_push_from_checkpoint", lambda self, folder: pushed.append(folder))
    monkeypatch.setattr(Trainer, "init_hf_repo", lambda self, token=None: None)
    monkeypatch.setattr(Trainer, "push_to_hub", lambda self, **kwargs: None)
    make_trainer(push_to_hub=True, hub_model_id="me/tiny").train()
    assert pushed == [str(tmp_path / "out" / f"checkpoint-{step}") for step in (1, 2)]
    for name in ("requirements.txt", "modeling_tsrec.py", "handler.py"):
        assert (tmp_path / "out" / name).is_file()


def test_the_reference_is_part_of_the_checkpoint(make_trainer, tmp_path):
    make_trainer("grpo").train()
    checkpoint = tmp_path / "out" / "checkpoint-2"
    assert "reference/model.safetensors" in json.loads((checkpoint / MANIFEST).read_text())["files"]
    truncate(checkpoint / "reference" / "model.safetensors")
    assert "reference/model.safetensors has" in why_not_whole(checkpoint)
