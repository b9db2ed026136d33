"""A tiny random CLIP, as a folder for sentence-transformers."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast


WORDS = ["<pad>", "<unk>", "<s>", "</s>", "red", "blue", "green", "hammer", "nail", "apple"]
TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="session")
def clip_dir(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("clip"))
    backend = Tokenizer(models.WordLevel({word: row for row, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=16,
    )
    text = {**TINY, "vocab_size": len(WORDS), "max_position_embeddings": 16, "bos_token_id": 2, "eos_token_id": 3}
    vision = {**TINY, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config={**text, "pad_token_id": 0}, vision_config=vision, projection_dim=8))
    for parameter in model.parameters():
        # Default weights are so small that all texts, and all images, would look alike.
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder
