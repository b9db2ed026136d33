"""What goes to the Hub beside the weights: model cards from the facts of a run, and exports without custom code."""

from .card import add_evaluation, build_model_card, check_base_model, dataset_facts
from .export import export_backbone
from .loading import is_recommender, load_or_start_recommender, load_recommender


__all__ = ["add_evaluation", "build_model_card", "check_base_model", "dataset_facts", "export_backbone", "is_recommender", "load_or_start_recommender", "load_recommender"]
