"""What vLLM calls when it starts: makes checkpoints of ours known to it."""


def register() -> None:
    """Names the class that vLLM loads our checkpoints with, without importing it."""
    # Registers the configuration and the tokenizer with transformers' Auto classes.
    from vllm import ModelRegistry

    import tsrec_hf  # noqa: F401

    ModelRegistry.register_model("TSRecForCausalLM", "tsrec_hf.serving.vllm_model:TSRecForCausalLM")
