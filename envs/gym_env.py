"""`EmpathicRewriting-v0`: empathic rewriting as a Gymnasium environment.

    import gymnasium, envs
    env = gymnasium.make("EmpathicRewriting-v0", examples=examples, scorer=scorer)
    observation, info = env.reset(seed=0)
    action = {"position": 0, "sentence": "I am so sorry you are going through this."}
    observation, reward, terminated, truncated, info = env.step(action)

The reward is the weighted sum of the scorer's components for the rewritten response. It is paid at the last step, and
every earlier step pays 0: rewards are defined on whole responses, and all actions of the episode together, those that
left a window alone included, made this one. Learners should use discount 1, so that each action's return is that same
total.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import gymnasium
import numpy as np

from envs import rewriting, spaces
from envs.scoring import EpisodeScorer, score_episodes
from partner_rl.config.schema import EnvConfig
from partner_rl.types import EditAction, Example, PartnerError

Observation: TypeAlias = dict[str, Any]
Action: TypeAlias = dict[str, Any]


class EmpathicRewritingEnv(gymnasium.Env[Observation, Action]):
    """Rewrites one response an episode; spaces as in `envs.spaces`.

    A random action may name a position that is masked out (`observation["position_mask"]`): it is taken as the no-op
    and reported by `info["invalid_position"]`. The pure transitions in `envs.rewriting` raise instead.

    The last step's `info` has `breakdown` (`RewardBreakdown`), `request` (`ScoreRequest`), `rewritten_response` and
    `edits` (tuple of `envs.rewriting.Edit`). Every `reset` has `response_id`.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - declared so by the base class

    def __init__(
        self,
        examples: Sequence[Example] | None = None,
        scorer: EpisodeScorer | None = None,
        settings: EnvConfig | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """Make the environment.

        Args:
            examples: The pairs to rewrite; at least one.
            scorer: Called once at the end of each episode, with one request.
            settings: Window and number of edits; None for the defaults.
            weights: Component of the scorer → its weight in the reward; None for 1 each.

        Raises:
            PartnerError: There is no example or no scorer, or a post is longer than the spaces allow.
        """
        if not examples:
            raise PartnerError(
                "EmpathicRewriting-v0 has nothing to rewrite: pass examples=[Example(...), ...] to gymnasium.make"
            )
        if scorer is None:
            raise PartnerError("EmpathicRewriting-v0 has no reward: pass scorer=... to gymnasium.make")
        _check_lengths(examples)
        self.settings = settings or EnvConfig()
        self.observation_space = spaces.observation_space(self.settings.window)
        self.action_space = spaces.action_space(self.settings.window)
        self._examples = tuple(examples)
        self._scorer = scorer
        self._weights = weights
        self._episode: rewriting.EpisodeState | None = None

    @property
    def episode(self) -> rewriting.EpisodeState:
        """The running episode.

        Raises:
            ValueError: `reset` was never called.
        """
        if self._episode is None:
            raise ValueError("no episode is running: call reset first")
        return self._episode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode on a random example, or on the one that `options={"index": i}` names.

        Raises:
            PartnerError: An option is unknown, or there is no such example.
        """
        super().reset(seed=seed)
        index = self._example_index(options or {})
        self._episode = rewriting.reset(self._examples[index], self.settings)
        return self._observation(), {"response_id": self._examples[index].response_id}

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take an action, `{"position": 0…2k+1, "sentence": str}`; the reward is 0 until the episode ends.

        Raises:
            ValueError: The action is outside the action space, or the episode is over.
            PartnerError: The scorer's answer is unusable.
        """
        if not self.action_space.contains(action):
            raise ValueError(f"the action is not in {self.action_space}")
        position = int(action["position"])
        is_valid = bool(rewriting.position_mask(self.episode)[position])
        # The no-op is the last position, where there is one.
        fallback = int(rewriting.position_mask(self.episode).nonzero()[0][-1])
        taken = EditAction(position if is_valid else fallback, action["sentence"])
        after = rewriting.step(self.episode, taken, self.settings)
        info: dict[str, Any] = {"invalid_position": not is_valid}
        reward = 0.0
        if after.done:
            request = rewriting.score_request(after)
            [scores] = score_episodes(self._scorer, [request])
            breakdown = scores.weighed(dict.fromkeys(scores.raw, 1.0) if self._weights is None else self._weights)
            reward = float(breakdown.total)
            info |= {
                "breakdown": breakdown,
                "request": request,
                "rewritten_response": request.rewritten_response,
                "edits": rewriting.edits(after),
            }
        self._episode = after
        return self._observation(), reward, after.done, False, info

    def _example_index(self, options: dict[str, Any]) -> int:
        unknown = sorted(options.keys() - {"index"})
        if unknown:
            raise PartnerError(f"EmpathicRewriting-v0 does not know reset option {unknown[0]!r}: use 'index' or none")
        if "index" not in options:
            return int(self.np_random.integers(len(self._examples)))
        index = int(options["index"])
        if not 0 <= index < len(self._examples):
            raise PartnerError(
                f"EmpathicRewriting-v0 has no example {index}: give an index in 0…{len(self._examples) - 1}"
            )
        return index

    def _observation(self) -> Observation:
        state = rewriting.observe(self.episode)
        padding = ("",) * (self.settings.window - len(state.span))
        return {
            "seeker_post": state.seeker_post,
            "span": state.span + padding,
            "position_mask": rewriting.position_mask(self.episode).astype(np.int8),
        }


def _check_lengths(examples: Sequence[Example]) -> None:
    for example in examples:
        longest = max(len(example.seeker_post), len(example.response_post))
        if longest > spaces.MAX_TEXT_CHARACTERS:
            raise PartnerError(
                f"response {example.response_id}: a post of {longest} characters is over the environment's "
                f"{spaces.MAX_TEXT_CHARACTERS}: leave the pair out or cut the post"
            )
