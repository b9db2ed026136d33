"""Where in a generation GRPO stands when a run goes on."""

import logging

import numpy as np
from transformers import TrainerCallback
from trl import GRPOTrainer


logger = logging.getLogger(__name__)


class StepCounter(TrainerCallback):
    """
    Sets TRL's count of batches on resume, which starts at 0 and decides when completions are generated.
    """

    def __init__(self, trainer: GRPOTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        step = state.global_step * args.gradient_accumulation_steps
        every = args.steps_per_generation * args.num_iterations
        if step % every:
            logger.warning(
                f"This run goes on at step {state.global_step}, in the middle of a generation: its completions are "
                "made anew by the present policy, so that it will not equal an uninterrupted run. Save at multiples "
                f"of {every // np.gcd(every, args.gradient_accumulation_steps)} steps."
            )
        self.trainer._step = step
        self.trainer._buffered_inputs = None
