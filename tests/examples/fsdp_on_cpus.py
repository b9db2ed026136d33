"""
Runs a script with accelerate's FSDP2 on CPUs over gloo: `torchrun ... fsdp_on_cpus.py SCRIPT ...`.

accelerate 1.15 chooses FSDP for accelerators only; what it does then runs on CPUs as well. Here it is made to choose
it.
"""

import runpy
import sys

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType


plain_init = AcceleratorState.__init__


def init_with_fsdp(self, *args, **kwargs):
    plain_init(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = kwargs["fsdp_plugin"]
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


if __name__ == "__main__":
    AcceleratorState.__init__ = init_with_fsdp
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
    torch.distributed.destroy_process_group()
