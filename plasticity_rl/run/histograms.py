"""Histograms of weights and activations in TensorBoard, for who asks for them."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from plasticity_rl.agents.base import RLModule
from plasticity_rl.agents.hooks import RLCallback
from plasticity_rl.agents.probing import record_pass
from plasticity_rl.data.evaluation import Episode
from plasticity_rl.errors import at_least
from plasticity_rl.nn.weight_transforms import parameters_in_use


class Histograms(RLCallback):
    """Distribution of every weight tensor and of every hidden layer's activations, at evaluations.

    Off unless it is given: ``--trainer.callbacks+=plasticity_rl.Histograms``. Activations are those of
    the probe batch (see :meth:`RLModule.probe_batch`), so from the first evaluation on at which there is a replay to
    draw from. Only finite values count.

    Mutates: nothing.
    Logs: histograms ``weights/<module>/<parameter>`` and ``activations/<module>/<layer>``, to TensorBoard.

    Args:
        every_n_evals: Period in evaluations.
        batch_size: Transitions in the probe batch.

    Raises:
        UserError: When a number is not positive.
    """

    cuda_graph = "stays"

    def __init__(self, every_n_evals: int = 1, batch_size: int = 64) -> None:
        for name, value in {"every_n_evals": every_n_evals, "batch_size": batch_size}.items():
            at_least(f"Histograms.{name}", value, 1)
        self.every_n_evals, self.batch_size = every_n_evals, batch_size

    def on_evaluation(self, agent: RLModule, episodes: Sequence[Episode]) -> None:
        """Write them when this evaluation is due."""
        writers = [logger.experiment for logger in agent.trainer.loggers if isinstance(logger, TensorBoardLogger)]
        fitting = agent.trainer.state.fn == TrainerFn.FITTING
        if not writers or not fitting or len(agent.eval_returns) % self.every_n_evals:
            return
        for tag, values in self._tensors(agent).items():
            finite = values[values.isfinite()]
            for writer in writers if finite.numel() else ():
                writer.add_histogram(tag, finite, agent.env_frames)

    def _tensors(self, agent: RLModule) -> dict[str, Tensor]:
        tensors = {
            f"weights/{name}/{path}.{key}".replace("/.", "/"): parameter.detach()
            for name in agent.module_names
            for path, layer in agent.submodules(name).items()
            for key, parameter in parameters_in_use(layer).items()
        }
        if not agent.data.replay.has_window:
            return tensors
        recorded = record_pass(agent, agent.probe_batch(self.batch_size)).activations
        for name in agent.module_names:
            layers = agent.activation_layers(name).items()
            tensors |= {f"activations/{name}/{path}": recorded[layer] for path, layer in layers if layer in recorded}
        return tensors
