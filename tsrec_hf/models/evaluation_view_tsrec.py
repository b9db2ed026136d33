"""A view of a model in evaluation mode that shares its weights, so that a search changes nothing of the model."""

import copy
from functools import partial
from types import FunctionType, MethodType
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel


Module = TypeVar("Module", bound=nn.Module)


def evaluation_view(module: Module) -> Module:
    r"""
    Gives a model that shares all parameters and buffers with another one, but is in evaluation mode.

    `module.eval()` would switch the model for everybody: for a training loop in another thread, and for all modules
    that their owner had put into one mode or the other. A view has module objects of its own, some hundred of them,
    and no copy of a tensor.

    Args:
        module (`nn.Module`):
            The model, in any mode.

    Returns:
        `nn.Module`: Of the same class. What trains the model changes the view's weights as well.

    Example:

    ```python
    >>> from torch import nn
    >>> from tsrec_hf.models.evaluation_view_tsrec import evaluation_view

    >>> layers = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    >>> view = evaluation_view(layers)
    >>> view[1].training, layers[1].training, view[0].weight is layers[0].weight
    (False, True, True)
    ```
    """
    views: dict[int, nn.Module] = {}
    view = _view_of(module, views)
    for copied in views.values():
        for name, value in copied.__dict__.items():
            # Methods that a library has put on an instance, as accelerate does, belong to the copied instance here.
            if isinstance(value, (MethodType, partial)):
                copied.__dict__[name] = _rebound(value, views)
    return view


def _view_of(module: Module, views: dict[int, nn.Module]) -> Module:
    if id(module) in views:
        return views[id(module)]  # type: ignore[return-value]  # the view of a module is of its class
    if hasattr(module, "_orig_mod"):
        # What `torch.compile(module)` returns runs the module that it was made of.
        original: Any = module._orig_mod
        views[id(module)] = view = _view_of(original, views)
        return view
    view = object.__new__(type(module))
    views[id(module)] = view
    view.__dict__.update(module.__dict__)
    view.__dict__["training"] = False
    # Compiled code, and functions that somebody put in the place of `forward`, run the module itself, not its view.
    view.__dict__["_compiled_call_impl"] = None
    if isinstance(forward := view.__dict__.get("forward"), FunctionType):
        if not hasattr(forward, "_torchdynamo_orig_callable"):
            raise ValueError(
                f"Expected a model whose modules run as their classes define them, but `forward` of a "
                f"`{type(module).__name__}` was replaced by the function {forward.__qualname__!r}. Use forward hooks, "
                "or `types.MethodType`, which a search can follow."
            )
        view.__dict__["forward"] = forward._torchdynamo_orig_callable
    if "support_avx512bf16_for_cpu" in view.__dict__:
        # bitsandbytes 0.50 would rearrange 4-bit weights in place, which neither training nor saving expects.
        view.__dict__["support_avx512bf16_for_cpu"] = False
    view.__dict__["_modules"] = {
        name: None if child is None else _view_of(child, views) for name, child in module._modules.items()
    }
    return view


def _rebound(value: Any, views: dict[int, nn.Module]) -> Any:
    """A bound method or partial function with the views of the modules that it holds."""
    if isinstance(value, MethodType):
        return MethodType(value.__func__, views.get(id(value.__self__), value.__self__))
    if isinstance(value, partial):
        arguments = [views.get(id(argument), argument) for argument in value.args]
        return partial(_rebound(value.func, views), *arguments, **value.keywords)
    return value


def cut_head(view: PreTrainedModel, token_ids: torch.Tensor) -> bool:
    """
    Cuts the output head of a view down to some tokens, in their order, so that no other logits are computed, and these
    in float32: bfloat16 keeps no more than two digits of a logit. All that the model does to logits besides, such as
    scaling or soft-capping them, stays.

    Args:
        view ([`~transformers.PreTrainedModel`]):
            From [`evaluation_view`]; the model that it views keeps its head.
        token_ids (`torch.Tensor` of shape `(rows,)`):
            The tokens.

    Returns:
        `bool`: Whether the head is cut; a quantised head, or one that PEFT wraps, is more than a matrix and stays
        whole, and so does one that accelerate fetches from another device or a disk.
    """
    head = view.get_output_embeddings()
    # Hooks put a `forward` of their own on an instance, which a copy of the head would have of the whole one.
    if type(head) is not nn.Linear or "forward" in head.__dict__:
        return False
    cut = copy.copy(head)
    cut.__class__ = Float32Linear
    cut.out_features = len(token_ids)
    cut._parameters = {
        name: None if rows is None else nn.Parameter(rows.detach()[token_ids].float(), requires_grad=False)
        for name, rows in head._parameters.items()
    }
    view.set_output_embeddings(cut)
    return True


class Float32Linear(nn.Linear):
    """A linear layer in float32, whatever its inputs are and under autocast too."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Outputs in float32."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())
