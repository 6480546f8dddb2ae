"""One env step at a time from a TorchRL collector, beside the updates if asked to; restorable in mid-episode."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.envs import EnvBase

from plasticity_rl.envs.contract import require_ends, require_first_step
from plasticity_rl.envs.side_by_side import EnvsSideBySide
from plasticity_rl.envs.snapshots import env_state_dict, load_env_state_dict, why_not_exact
from plasticity_rl.errors import RunFailure, UserError, describe_error
from plasticity_rl.machine.rendering import free_at_exit

Policy = Callable[[Tensor], Tensor]
"""Maps observations ``(num_envs, *obs_shape)``, uint8 or float32, to actions ``(num_envs, action_dim)``."""


@runtime_checkable
class Learner(Protocol):
    """Who learns from what is collected: a LightningModule that chooses actions."""

    env_steps: int
    """Env steps so far, of all ranks."""

    def act(self, observations: Tensor, *, explore: bool) -> Tensor:
        """Return actions ``(num_envs, action_dim)``."""
        ...

    def env_failure(self, failed: str) -> Exception:
        """Return what to raise when an environment failed while it was being trained; ``failed`` says so."""
        ...


class _Decided:
    """The policy that TorchRL calls: it does what was decided before, so that no thread but ours uses the networks.

    With ``out_keys`` it is not called once at construction.
    """

    out_keys = ("action",)
    actions: Tensor

    def __call__(self, tensordict: TensorDictBase) -> TensorDictBase:
        return tensordict.set("action", self.actions.reshape(*tensordict.batch_size, -1))


class _OneStep(Collector):
    """TorchRL's ``Collector`` for a rollout of one step, without what joins and cleans the steps of a longer one.

    That is a quarter of the processor time of a step: stacking copies every tensor, here of a single step.
    """

    _carrier: TensorDictBase

    @torch.no_grad()
    def rollout(self) -> TensorDictBase:
        """Step every env once."""
        step, self._carrier = self.env.step_and_maybe_reset(self._wrapped_policy(self._carrier))
        return step

    def _postproc(self, tensordict_out: TensorDictBase) -> TensorDictBase:
        return tensordict_out


class _WhenAsked:
    """Does something when its result is asked for: of a step that other processes do, there is only that to wait for.

    Args:
        do: Called once.
    """

    def __init__(self, do: Callable[[], TensorDictBase]) -> None:
        self._do = functools.cache(do)

    def result(self) -> TensorDictBase:
        """Return what came of it."""
        return self._do()


class StepCollector:
    """TorchRL's ``Collector``, asked for exactly one env step of every env.

    Collecting one step at a time is what makes the replay ratio exact and lets every action come from the newest
    policy. :meth:`begin` starts the next step, so that it runs beside the updates: in worker processes if that is where
    the environments are, else in a thread, where simulator and renderer release Python's lock. Its actions are decided
    before, so a run stays reproducible.

    Attributes:
        not_exact: Why the environments cannot be saved, so that ``state_dict`` goes without them; or an empty string.

    Args:
        build: Returns an environment, or a vector of them with batch shape ``[num_envs]``.
        policy: The acting policy. It is called in the caller's thread, and not stored as a submodule, so that the
            agent's weights are never registered twice.
        observation: Key of the observation that the policy is given.
        failure: Returns what to raise when the environment raises something.
        in_thread: Build and use the environment in a thread of its own: what :meth:`begin` needs where there are no
            worker processes, since an OpenGL context belongs to the thread that made it.
    """

    def __init__(
        self,
        build: Callable[[], EnvBase],
        policy: Policy,
        observation: str = "pixels",
        failure: Callable[[Exception], Exception] = lambda error: RunFailure(describe_error(error)),
        in_thread: bool = False,
    ) -> None:
        self._failure = failure
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="env step") if in_thread else None
        self._begun: Future[TensorDictBase] | _WhenAsked | None = None
        self._policy, self._decided = policy, _Decided()
        self._observation = observation
        self._state_at_close: dict[str, Any] | None = None
        self.closed = self._checked = False
        self.env, self._collector = self._here(self._start, build)
        self.not_exact: str = self._here(why_not_exact, self.env)
        free_at_exit(self)  # after its environment, so that it is asked first
        self._steps: Iterator[TensorDictBase] = iter(self._collector)
        self.num_envs = self.env.batch_size.numel()
        self.episode_return = torch.zeros(self.num_envs)
        self.episode_steps = torch.zeros(self.num_envs, dtype=torch.int64)

    def _start(self, build: Callable[[], EnvBase]) -> tuple[EnvBase, Collector]:
        env = build()
        collector = _OneStep(
            env,
            policy=self._decided,
            frames_per_batch=env.batch_size.numel(),
            total_frames=-1,
            track_traj_ids=False,
            auto_register_policy_transforms=False,
            trust_policy=True,
            use_buffers=False,
        )
        return env, collector

    def _here(self, do: Callable[..., Any], *args: Any) -> Any:
        """Return ``do(*args)``, done in the environment's thread if it has one."""
        return do(*args) if self._thread is None else self._thread.submit(do, *args).result()

    def begin(self) -> None:
        """Start the next step with the policy as it is now; :meth:`step` will wait for it.

        Needs ``in_thread``, or environments in worker processes.

        Raises:
            RunFailure: When a worker process is gone.
        """
        assert self._begun is None, "a step was begun already"
        self._decide()
        if isinstance(self.env, EnvsSideBySide):
            try:
                self.env.begin(self._decided(self._collector._carrier))
            except Exception as error:
                raise self._failure(error) from error
            self._begun = _WhenAsked(self._run)
        else:
            assert self._thread is not None, "without a thread nothing can be begun"
            self._begun = self._thread.submit(self._run)

    def _decide(self) -> None:
        self._decided.actions = self._policy(self.observations())

    def _run(self) -> TensorDictBase:
        return next(self._steps).reshape(-1)

    def step(self) -> TensorDictBase:
        """Step every env once, or finish the step that was begun.

        Returns:
            TensorDict of batch shape ``[num_envs]`` with the observation, ``action`` and, under ``next``, the
            observation, ``reward``, ``discount`` and ``done``.

        Raises:
            RunFailure: When the environment fails; errors of the policy go through as they are.
            UserError: When the first step shows that the environment is not as it has to be.
        """
        if self._begun is None:
            self._decide()
        begun, self._begun = self._begun, None
        try:
            step = self._here(self._run) if begun is None else begun.result()
        except Exception as error:
            if isinstance(error, UserError) and not self._checked:  # as what is looked at below
                raise
            raise self._failure(error) from error
        if not self._checked:
            require_first_step(self.env, step, self._observation)
            self._checked = True
        self.episode_return += step["next", "reward"].view(-1)
        self.episode_steps += 1
        return step

    def finished_episodes(self, step: TensorDictBase) -> list[tuple[float, int]]:
        """Return ``(return, env steps)`` of the episodes that ``step`` ended, and start counting their successors."""
        ended = step["next", "done"].view(-1)
        if not ended.any():
            return []
        require_ends(step)
        episodes = [(float(self.episode_return[i]), int(self.episode_steps[i])) for i in ended.nonzero().flatten()]
        self.episode_return[ended] = 0.0
        self.episode_steps[ended] = 0
        return episodes

    def observations(self) -> Tensor:
        """Return what the last finished step led to, or the first observation of a new episode where it ended one.

        Returns:
            ``(num_envs, *obs_shape)``.
        """
        if self._begun is not None:
            return self._begun.result()[self._observation]
        carrier = self._collector._carrier
        shown = carrier[self._observation]
        return shown.reshape(-1, *shown.shape[carrier.batch_dims :])

    def state_dict(self) -> dict[str, Any]:
        """Return simulator, open episode and counters: TorchRL's own state starts a fresh trajectory instead.

        Of a collector that is closed, what they were when it was.

        Raises:
            UserError: When it was closed without, because the run failed.
        """
        if self.closed:
            if self._state_at_close is None:
                raise UserError(
                    "this run ended by an error or a signal, maybe in the middle of a step, so that there is no whole "
                    "state to save: its newest checkpoint is checkpoints/last.ckpt in the run folder"
                )
            return self._state_at_close
        begun = None if self._begun is None else _flat(self._begun.result())  # first: what follows is after that step
        return {
            "begun": begun,
            "env": None if self.not_exact else self._here(env_state_dict, self.env),
            "carrier": _flat(self._collector._carrier),
            "episode_return": self.episode_return.clone(),
            "episode_steps": self.episode_steps.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state_dict`` was taken, in the middle of the open episode.

        Raises:
            UserError: When the environments were not saved, because they could not be.
        """
        if state["env"] is None:
            raise UserError("the environments of the checkpoint could not be saved: --data.exact_resume false")
        self._here(load_env_state_dict, self.env, state["env"])
        self._collector._carrier = _nested(state["carrier"], self.env.batch_size)
        self._begun = None
        if state.get("begun") is not None:
            self._begun = Future()
            self._begun.set_result(_nested(state["begun"], torch.Size([self.num_envs])))
        self.episode_return = state["episode_return"].clone()
        self.episode_steps = state["episode_steps"].clone()

    def close(self, *, keep_state: bool = False) -> None:
        """Close the env, free its rendering context in the thread that draws, and end that thread; twice is harmless.

        Args:
            keep_state: Whether :meth:`state_dict` shall go on returning what it is now; else a step that was begun is
                lost.
        """
        if self.closed:
            return
        try:
            if keep_state:
                with contextlib.suppress(Exception):  # environments whose state cannot be saved
                    self._state_at_close = self.state_dict()
            if isinstance(self._begun, Future):
                self._begun.exception()  # wait for it, whatever becomes of it
            self._here(self._close)
        finally:
            self._begun, self.closed = None, True
            if self._thread is not None:
                self._thread.shutdown()

    def free_rendering(self) -> None:
        """Close it at the exit of the interpreter, where nobody did."""
        self.close()

    def _close(self) -> None:
        self._collector.shutdown()
        self.env.close(raise_if_closed=False)  # TorchRL takes it for closed already: is_closed is true until told


def _flat(tensordict: TensorDictBase) -> dict[str, Tensor]:
    return {"/".join(_as_tuple(key)): value.clone() for key, value in tensordict.items(True, True)}


def _nested(flat: Mapping[str, Tensor], batch_size: torch.Size) -> TensorDict:
    return TensorDict({tuple(key.split("/")): value.clone() for key, value in flat.items()}, batch_size=batch_size)


def _as_tuple(key: str | tuple[str, ...]) -> tuple[str, ...]:
    return (key,) if isinstance(key, str) else key
