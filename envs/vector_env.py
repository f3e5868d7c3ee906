"""Many rewriting episodes side by side, in lockstep, for RLlib's env runners.

Slots hold given examples and are not reset on their own: the runner forwards the live slots only, rolls all of them to
the end and then starts the next batch, so whole groups of samples stay together and no episode is cut short.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from envs import rewriting, spaces
from envs.scoring import EpisodeScorer, score_episodes
from partner_rl.config.schema import EnvConfig
from partner_rl.types import EditAction, Example, PartnerError, RewriteState

Observations: TypeAlias = list[RewriteState | None]
Actions: TypeAlias = Sequence[EditAction | None]
VectorStep: TypeAlias = tuple[
    Observations, npt.NDArray[np.float32], npt.NDArray[np.bool_], npt.NDArray[np.bool_], dict[str, Any]
]


class RewriteVectorEnv(gymnasium.vector.VectorEnv[Observations, Actions, npt.NDArray[Any]]):
    """`num_envs` slots, one episode each, on the transitions of `envs.rewriting`.

    Observations and actions are the project's records (`RewriteState`, `EditAction`), not members of the spaces; the
    spaces say what `EmpathicRewritingEnv` would hand out, for code that asks for them.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012 - declared so by the base class

    def __init__(self, num_envs: int, scorer: EpisodeScorer, settings: EnvConfig) -> None:
        """Make the environment; `reset` hands it the examples.

        Args:
            num_envs: Number of slots, `N`.
            scorer: Called once in each step in which slots finish, with one request a finishing slot.
            settings: Window and number of edits.

        Raises:
            ValueError: There is no slot.
        """
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, and is {num_envs}")
        self.num_envs = num_envs
        self.settings = settings
        self.single_observation_space = spaces.observation_space(settings.window)
        self.single_action_space = spaces.action_space(settings.window)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._scorer = scorer
        self._episodes: tuple[rewriting.EpisodeState, ...] = ()

    def with_slots(self, num_envs: int) -> RewriteVectorEnv:
        """An environment of its own with the same scorer and settings and `num_envs` slots."""
        return RewriteVectorEnv(num_envs, self._scorer, self.settings)

    @property
    def episodes(self) -> tuple[rewriting.EpisodeState, ...]:
        """The `N` episodes, finished ones included; empty before the first `reset`."""
        return self._episodes

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Start an episode in every slot on `options={"examples": Sequence[Example]}`, one for each slot.

        Raises:
            PartnerError: The examples are missing or not as many as there are slots.
        """
        super().reset(seed=seed)
        examples = self._examples(options or {})
        self._episodes = tuple(rewriting.reset(example, self.settings) for example in examples)
        return self._observations(), {}

    def step(self, actions: Actions) -> VectorStep:
        """Take one action a live slot; nothing changes when an error is raised.

        An action is None exactly for the slots that had finished before.

        Returns:
            Observations, length `N`, None for finished slots; rewards, float32 `[N]`, always 0, since the algorithm
            weighs the scores; terminated, bool `[N]`, True for all finished slots; truncated, bool `[N]`, always False;
            infos, empty unless slots finish in this step, else with `breakdown`, `request` and `edits` as object
            arrays `[N]`, None in the other slots, and under the same names with a leading underscore Gymnasium's
            boolean masks `[N]` of the slots that they are set for.

        Raises:
            ValueError: `reset` was never called, the actions are not `N`, one is missing, given to a finished slot
                or masked out.
            PartnerError: The scorer's answer is unusable.
        """
        self._check_actions(actions)
        after = tuple(
            episode if action is None else rewriting.step(episode, action, self.settings)
            for episode, action in zip(self._episodes, actions, strict=True)
        )
        finishing = [slot for slot, action in enumerate(actions) if action is not None and after[slot].done]
        infos = self._score(after, finishing)
        self._episodes = after
        terminated = np.array([episode.done for episode in after], dtype=np.bool_)
        rewards, truncated = np.zeros(self.num_envs, np.float32), np.zeros(self.num_envs, np.bool_)
        return self._observations(), rewards, terminated, truncated, infos

    def _score(self, episodes: Sequence[rewriting.EpisodeState], finishing: Sequence[int]) -> dict[str, Any]:
        infos: dict[str, Any] = {}
        if not finishing:
            return infos
        requests = [rewriting.score_request(episodes[slot]) for slot in finishing]
        breakdowns = score_episodes(self._scorer, requests)
        for slot, request, breakdown in zip(finishing, requests, breakdowns, strict=True):
            info = {"breakdown": breakdown, "request": request, "edits": rewriting.edits(episodes[slot])}
            infos = self._add_info(infos, info, slot)
        return infos

    def _observations(self) -> Observations:
        return [None if episode.done else rewriting.observe(episode) for episode in self._episodes]

    def _examples(self, options: dict[str, Any]) -> Sequence[Example]:
        if "examples" not in options:
            raise PartnerError(
                "RewriteVectorEnv.reset was given no examples: pass "
                f'options={{"examples": [...]}} with {self.num_envs} examples'
            )
        examples: Sequence[Example] = options["examples"]
        if len(examples) != self.num_envs:
            raise PartnerError(
                f"RewriteVectorEnv.reset was given {len(examples)} examples for {self.num_envs} slots: "
                "pass exactly one for each slot"
            )
        return examples

    def _check_actions(self, actions: Actions) -> None:
        if not self._episodes:
            raise ValueError("no episode is running: call reset first")
        if len(actions) != self.num_envs:
            raise ValueError(f"{len(actions)} actions for {self.num_envs} slots")
        for slot, (episode, action) in enumerate(zip(self._episodes, actions, strict=True)):
            if action is None and not episode.done:
                raise ValueError(f"slot {slot} is live and needs an action, not None")
            if action is not None and episode.done:
                raise ValueError(f"slot {slot} has finished: its action must be None")
