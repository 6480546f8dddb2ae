"""The agent's networks a second time: to ask what they put out with other weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from tensordict import TensorDictBase
from torch import Tensor, nn
from torch.func import functional_call

from plasticity_rl.agents.base import RLModule
from plasticity_rl.nn.hooks import hooked
from plasticity_rl.nn.residual import RunningNorm


def network_tensors(agent: RLModule) -> dict[str, Tensor]:
    """Return parameters and buffers of all ``module_names`` by dotted name, as the agent holds them."""
    return {
        f"{top}.{name}": value
        for top in agent.module_names
        for source in (agent.module(top).named_parameters(), agent.module(top).named_buffers())
        for name, value in source
    }


def running_statistics(agent: RLModule) -> dict[str, Tensor]:
    """Return those of :func:`network_tensors` by which inputs are normalised: they are no weights."""
    norms = {
        f"{top}.{name}": layer
        for top in agent.module_names
        for name, layer in agent.module(top).named_modules()
        if isinstance(layer, (RunningNorm, nn.modules.batchnorm._BatchNorm))
    }
    return {f"{path}.{name}": value for path, layer in norms.items() for name, value in layer.named_buffers()}


class Twin:
    """Modules that are copies of an agent's, in evaluation mode, with weights of their own that nobody trains.

    A pass through them runs none of the hooks that the agent's modules carry during an update. It is no part of the
    agent: not in its parameters, its optimizers or its ``state_dict``.

    Args:
        agent: Its networks are copied, on their device.
        weights: Weights of the twin, as ``network_tensors``; used as they are, without a copy.
    """

    def __init__(self, agent: RLModule, weights: Mapping[str, Tensor]) -> None:
        self.agent = copy.copy(agent)  # a shell: attributes are shared, modules are replaced
        modules = {name: copy.deepcopy(agent.module(name)) for name in agent.module_names}
        self.agent.__dict__["_modules"] = {**agent._modules, **modules}
        for module in modules.values():
            module.requires_grad_(False).eval()
        self.weights = dict(weights)
        self._structural = [
            (agent.get_submodule(name), module)
            for top in agent.module_names
            for name, module in modules[top].named_modules(prefix=top)
            if type(module).get_extra_state is not nn.Module.get_extra_state
        ]

    def follow(self) -> None:
        """Take over what the agent's modules hold beside tensors, such as how many heads take part."""
        for theirs, ours in self._structural:
            ours.set_extra_state(theirs.get_extra_state())

    def outputs(self, batch: TensorDictBase, weights: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return what :meth:`RLModule.forward_all` returns, with the twin's weights or with others.

        Args:
            batch: ``[B]`` with observations and ``action``.
            weights: As ``network_tensors``; gradients reach them.
        """
        outputs: dict[str, Tensor] = functional_call(self.agent, dict(weights or self.weights), (batch,))
        return outputs

    def activations(
        self, batch: TensorDictBase, names: Mapping[str, str], weights: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return outputs of hidden activations with the twin's weights, or with others, from one pass.

        Args:
            batch: ``[B]`` with observations and ``action``.
            names: Module -> name of one of its activation layers.
            weights: As ``network_tensors``; gradients reach them.

        Returns:
            Output of that layer by the name of the module.
        """
        kept: dict[str, Tensor] = {}
        hooks = hooked(
            self.agent.activation_layers(name)[layer].register_forward_hook(
                lambda _, __, output, name=name: kept.setdefault(name, output)
            )
            for name, layer in names.items()
        )
        with hooks:
            self.outputs(batch, weights)
        return kept
