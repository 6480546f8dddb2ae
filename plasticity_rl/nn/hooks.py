"""What a network is seen by: the mark of hidden activations, and a mode in which looking changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


class HiddenActivation(nn.Module):
    """Base of hidden activations other than ReLU, by which probes and interventions find them."""

    copies: int = 1
    """Outputs per unit, laid out copy by copy along dimension 1."""
    pinned: Mapping[str, str] = {}
    """Quantities (see ``Intervention.acts_on``) that say nothing about the network behind it, each with the reason."""

    def reset_parameters(self) -> None:
        """Set parameters, if there are any, to their first values."""


def is_hooked(module: nn.Module, optimizers: Iterable[Optimizer] = ()) -> bool:
    """Return whether hooks watch a pass through ``module``, gradients of its parameters, or steps of ``optimizers``."""
    for one in module.modules():
        if one._forward_hooks or one._forward_pre_hooks or one._backward_hooks or one._backward_pre_hooks:
            return True
        for parameter in one._parameters.values():
            if parameter is not None and (parameter._backward_hooks or parameter._post_accumulate_grad_hooks):
                return True
    return any(one._optimizer_step_pre_hooks or one._optimizer_step_post_hooks for one in optimizers)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put ``module`` and all its children into evaluation mode; afterwards each is as it was."""
    training = [child for child in module.modules() if child.training]
    try:
        for child in training:
            child.training = False
        yield
    finally:
        for child in training:
            child.training = True


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove these hooks at the end of the block, also where it raises; a generator registers them at its start."""
    with ExitStack() as stack:
        for handle in handles:
            stack.enter_context(handle)
        yield
