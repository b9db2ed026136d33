"""The reference model of GRPO: a copy of the policy in memory, in checkpoints as well."""

import tempfile
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

from tsrec_hf.models import TSRecForCausalLM

from .grpo_config import TSRecGRPOConfig
from .sharding import WHOLE, as_saved


REFERENCE_FOLDER = "reference"


class SavedPolicy:
    """
    Context in which TRL loads the reference model of an in-memory policy from a copy of that policy.

    TRL 1.16 reloads the reference from `config._name_or_path`, which for a model changed in memory is another model.
    To be removed when it copies the policy.
    """

    def __init__(self, model: Any, args: TSRecGRPOConfig, peft_config: Any):
        is_plain = isinstance(model, TSRecForCausalLM) and peft_config is None
        self.model: TSRecForCausalLM | None = model if is_plain and args.beta != 0.0 else None
        self.state = args.distributed_state
        self.folder: tempfile.TemporaryDirectory | None = None

    def __enter__(self) -> None:
        if self.model is None:
            return
        self.name = self.model.config._name_or_path
        paths: list[str | None] = [None]
        if self.state.is_main_process:
            self.folder = tempfile.TemporaryDirectory()
            self.model.save_pretrained(self.folder.name)
            paths = [self.folder.name]
        if self.state.num_processes > 1:
            broadcast_object_list(paths)
        self.model.config._name_or_path = paths[0]

    def __exit__(self, *error) -> None:
        if self.model is None:
            return
        self.model.config._name_or_path = self.name
        if error[0] is None:
            self.state.wait_for_everyone()
        if self.folder is not None:
            self.folder.cleanup()


def save_reference(reference: nn.Module, unwrapped: nn.Module, checkpoint: Path, should_save: bool) -> None:
    """Saves the reference model into a checkpoint; called by all processes, since FSDP gathers its shards."""
    weights = get_model_state_dict(reference, options=WHOLE)
    if should_save:
        assert isinstance(unwrapped, TSRecForCausalLM)
        with as_saved(unwrapped):
            unwrapped.save_pretrained(checkpoint / REFERENCE_FOLDER, state_dict=weights)


def restore_reference(reference: nn.Module, checkpoint: Path, dtype: Any) -> None:
    """Loads the reference model of a checkpoint; raises `FileNotFoundError` where it has none."""
    folder = checkpoint / REFERENCE_FOLDER
    if not folder.is_dir():
        raise FileNotFoundError(
            f"Expected the reference model in {folder}, but there is no such folder: the checkpoint was saved "
            "with `beta=0` or `save_only_model=True`. Resume from another one, or set `beta=0`."
        )
    saved = TSRecForCausalLM.from_pretrained(folder, dtype=dtype)
    set_model_state_dict(reference, saved.state_dict(), options=WHOLE)
