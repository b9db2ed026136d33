"""A plain checkpoint of a recommender, for software that does not know this package."""

from tsrec_hf.hub import export_backbone, export_custom_generate, load_recommender

from .options import ExportOptions


def main(args: ExportOptions) -> None:
    model, tokenizer = load_recommender(args.model_name_or_path, args.revision)
    print(f"{export_backbone(model, args.output_dir, tokenizer)}: README.md there says how to decode with it.")
    if args.decoder_dir is not None:
        print(f"{export_custom_generate(tokenizer, args.decoder_dir)}: the decoder; `hf upload` sends both.")
