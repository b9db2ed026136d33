"""The grounding stage: the SID rows alone are trained on TS-Align, before everything is trained."""

from dataclasses import replace
from pathlib import Path

from datasets import Dataset

from tsrec_hf.data import build_alignment_rows, tokenize_rows
from tsrec_hf.data.text_length import text_tokens_of
from tsrec_hf.models import TSRecForCausalLM, TSRecTokenizer
from tsrec_hf.models.checking_tsrec import checks_types
from tsrec_hf.semantics import TokenSemantics

from .progress_bar import ProgressBarCallback
from .sft_config import TSRecSFTConfig
from .sft_trainer import TSRecSFTTrainer


@checks_types
def ground_sid_rows(
    model: TSRecForCausalLM,
    tokenizer: TSRecTokenizer,
    semantics: TokenSemantics,
    args: TSRecSFTConfig,
    num_epochs: float = 2.0,
    learning_rate: float = 1e-3,
) -> None:
    r"""
    Trains the SID rows of a recommender on the descriptions of their tokens; everything else stays bit for bit.

    Args:
        model ([`TSRecForCausalLM`]):
            The recommender, changed in place.
        tokenizer ([`TSRecTokenizer`]):
            Its tokenizer.
        semantics ([`TokenSemantics`]):
            Descriptions of the SID tokens.
        args ([`TSRecSFTConfig`]):
            Settings of the run that comes after it, which hold here as well but for the length, the learning rate and
            what concerns evaluation and checkpoints.
        num_epochs (`float`, *optional*, defaults to `2.0`):
            Passes over the descriptions.
        learning_rate (`float`, *optional*, defaults to `1e-3`):
            Learning rate.

    Example:

    ```python
    >>> import tempfile
    >>> from tsrec_hf import TSRecSFTConfig
    >>> from tsrec_hf.trainers import ground_sid_rows

    >>> args = TSRecSFTConfig(tempfile.mkdtemp(), report_to="none", use_cpu=True, bf16=False, disable_tqdm=True)
    >>> before = model.get_input_embeddings().weight.detach().clone()
    >>> ground_sid_rows(model, tokenizer, semantics, args, num_epochs=1)
    {'train_runtime': ...}
    >>> changed = (model.get_input_embeddings().weight != before).any(dim=1)
    >>> int(changed.sum()), sum(map(len, tokenizer.sid_token_ids))
    (7, 7)
    ```
    """
    if not num_epochs > 0:
        raise ValueError(
            f"Expected `num_epochs` above 0, but found {num_epochs}. Leave the grounding stage out, or pass 2."
        )
    grounding_args = replace(
        args,
        output_dir=str(Path(str(args.output_dir), "grounding")),
        freeze_backbone=True,
        num_train_epochs=num_epochs,
        max_steps=-1,
        learning_rate=learning_rate,
        # A few short passes: what suits the long run would leave the rows where they are.
        warmup_steps=0,
        weight_decay=0.0,
        task_weights=None,
        eval_strategy="no",
        eval_on_start=False,
        save_strategy="no",
        push_to_hub=False,
        load_best_model_at_end=False,
    )
    described = build_alignment_rows(semantics, tokenizer, max_text_tokens=text_tokens_of(args.max_length))
    rows = Dataset.from_list(tokenize_rows(described, tokenizer))
    trainer = TSRecSFTTrainer(model, grounding_args, train_dataset=rows, processing_class=tokenizer)
    if not args.disable_tqdm:
        ProgressBarCallback(title="Grounding").replace_in(trainer)
    trainer.train()
