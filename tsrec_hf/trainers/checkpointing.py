"""A trainer's part that saves whole checkpoints, resumes from them, and pushes them."""

import shutil
from pathlib import Path
from typing import Any, cast

from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler

from tsrec_hf.models import TSRecTokenizer

from .checkpoints import StagedCheckpoint, last_whole, publish_finished, resolve_resume
from .prompt_sampler import PassSeededSampler


# What a checkpoint holds beside weights and tokenizer so that others can run it.
CODE = ("*.py", "requirements.txt")


class CheckpointingTrainer(Trainer):
    """Base of the trainers; which private methods are overridden, and why, stands in `hooks.py`."""

    _staged: StagedCheckpoint | None = None

    def _checkpoint_to_resume(self, value: str | bool | None) -> str | None:
        """The folder that `resume_from_checkpoint` means, whole and of this catalogue."""
        run_dir = str(self.args.output_dir)
        if self.args.should_save:
            publish_finished(run_dir)
        self.accelerator.wait_for_everyone()
        return resolve_resume(value, run_dir, cast(TSRecTokenizer, self.processing_class).sid_index)

    def _get_train_sampler(self, train_dataset=None):
        sampler = super()._get_train_sampler(train_dataset)
        # accelerate seeds the plain random order by itself.
        return self._seeded_by_pass(sampler) if isinstance(sampler, LengthGroupedSampler) else sampler

    def _seeded_by_pass(self, sampler: Any) -> PassSeededSampler:
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return PassSeededSampler(sampler, seed, lambda: int(self.state.epoch or 0))

    def _get_output_dir(self, trial) -> str:
        return super()._get_output_dir(trial) if self._staged is None else self._staged.folder

    def _evaluate(self, trial, ignore_keys_for_eval, skip_scheduler=False) -> dict[str, float]:
        metrics = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        # `eval_on_start`: transformers measures the start, but never takes it for the best.
        if skip_scheduler and self.state.global_step == 0 and self.args.load_best_model_at_end:
            self._determine_best_metric(metrics, trial)
            self._save_checkpoint(self.model, trial)
        return metrics

    def _save_checkpoint(self, model, trial) -> None:
        run_dir = self._get_output_dir(trial)
        staged = StagedCheckpoint(run_dir, self.state.global_step, self.args, self.accelerator.wait_for_everyone)
        try:
            staged.begin()
            self._staged = staged
            super()._save_checkpoint(model, trial)
            self._save_more(staged.path)
            staged.finish(self.state)
        except Exception as error:
            found, _ = last_whole(run_dir)
            error.add_note(
                f"The checkpoint of step {self.state.global_step} was not saved; the last whole one: {found}."
            )
            raise
        finally:
            self._staged = None
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(staged.final))
        staged.rotate(self.state)

    def _save_more(self, checkpoint: Path) -> None:
        """Saves what a method of training adds to a checkpoint; called by all processes."""

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._staged is not None:
            return  # it is pushed from where it stays
        # Transformers copies what every model has from the checkpoint; ours brings its code as well.
        if self.is_world_process_zero():
            for pattern in CODE:
                for path in Path(checkpoint_folder).glob(pattern):
                    shutil.copy(path, str(self.args.output_dir))
        super()._push_from_checkpoint(checkpoint_folder)
