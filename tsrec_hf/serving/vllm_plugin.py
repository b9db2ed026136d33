"""
What vLLM calls when it starts: makes checkpoints of ours known to it.

That this module is imported has registered their configuration and tokenizer with transformers' Auto classes.
"""


def register() -> None:
    """Names the class that vLLM loads our checkpoints with, without importing it."""
    from vllm import ModelRegistry

    ModelRegistry.register_model("TSRecForCausalLM", "tsrec_hf.serving.vllm_model:TSRecForCausalLM")
