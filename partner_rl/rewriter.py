"""A trained policy as a function: pairs in, rewritten responses with their edits out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from envs import rewriting, text
from envs.rewriting import Edit, EpisodeState
from partner_rl.config.schema import EnvConfig
from partner_rl.policy.actions import decode_action
from partner_rl.policy.generate import SampledAction, Sampling, sample_actions
from partner_rl.policy.model import Policy
from partner_rl.progress import Progress, no_progress
from partner_rl.seeds import seed_of
from partner_rl.types import Example, PartnerError, ScoreRequest


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A response that the policy has been over.

    Attributes:
        request: The rewritten response and its sentences, as the rewards and the evaluation take them.
        edits: What changed, in reading order; none when the policy left the response alone.
    """

    example: Example
    request: ScoreRequest
    edits: tuple[Edit, ...]

    @property
    def rewritten_response(self) -> str:
        """The rewritten response; without edits the original, character for character."""
        return self.request.rewritten_response


@dataclass(frozen=True, slots=True)
class RewriteError:
    """A pair that cannot be rewritten, and why; the message quotes no post."""

    example: Example
    message: str


class Rewriter:
    """Rewrites responses with a policy.

    Random numbers belong to a batch: row `i` of `rewrite` depends on the seed, on the rows of its own batch (`i //
    batch_size`) and on the model, not on other batches. The same call gives the same result, and rows appended after a
    full batch leave it as it is; another batch size or order of rows may draw other sentences. With
    `Sampling.greedy()` nothing is drawn, and a row depends on itself up to floating-point rounding.
    """

    def __init__(
        self, policy: Policy, env_settings: EnvConfig, sampling: Sampling, seed: int = 0, batch_size: int = 32
    ) -> None:
        """Take a policy.

        Raises:
            PartnerError: The policy was trained with another window.
        """
        if policy.vocabulary.window != env_settings.window:
            raise PartnerError(
                f"the policy edits windows of {policy.vocabulary.window} sentences, but env.window is "
                f"{env_settings.window}: set env.window={policy.vocabulary.window}"
            )
        if batch_size < 1:
            raise PartnerError(f"evaluation.batch_size is {batch_size}: it must be at least 1")
        self._policy = policy.with_positions(env_settings.positions)
        self._env = env_settings
        self._sampling = sampling
        self._seed = seed
        self._batch_size = batch_size

    def rewrite(self, pairs: Sequence[Example], progress: Progress = no_progress) -> list[Rewrite | RewriteError]:
        """Rewrites each response to the end of its episode.

        Returns:
            One result a pair, in order: a rewrite, or why there is none.
        """
        results: list[Rewrite | RewriteError] = []
        for batch, start in enumerate(range(0, len(pairs), self._batch_size)):
            results += self._rewrite_batch(pairs[start : start + self._batch_size], batch)
            progress(len(results), len(pairs))
        return results

    def sample(
        self, pairs: Sequence[Example], samples: int, progress: Progress = no_progress
    ) -> list[list[ScoreRequest]]:
        """Rewrites each response several times; the prompt is computed once for all its rewrites.

        With one sample the rewrites are those of `rewrite`.

        Returns:
            One list of `samples` rewrites a pair, in order.

        Raises:
            PartnerError: A pair cannot be rewritten.
        """
        for pair in pairs:
            if problem := _problem(pair):
                raise PartnerError(f"response {pair.response_id}: {problem}")
        # As many rows together as `rewrite` has.
        size, results = max(1, self._batch_size // samples), list[list[ScoreRequest]]()
        for batch, start in enumerate(range(0, len(pairs), size)):
            started = [rewriting.reset(pair, self._env) for pair in pairs[start : start + size]]
            finished = iter(self._run(started, batch, samples))
            results += [[rewriting.score_request(next(finished)) for _ in range(samples)] for _ in started]
            progress(len(results), len(pairs))
        return results

    def _rewrite_batch(self, pairs: Sequence[Example], batch: int) -> Iterator[Rewrite | RewriteError]:
        problems = [_problem(pair) for pair in pairs]
        started = [
            rewriting.reset(pair, self._env) for pair, problem in zip(pairs, problems, strict=True) if not problem
        ]
        finished = iter(self._run(started, batch))
        for pair, problem in zip(pairs, problems, strict=True):
            if problem:
                yield RewriteError(pair, problem)
            else:
                state = next(finished)
                yield Rewrite(pair, rewriting.score_request(state), rewriting.edits(state))

    def _run(self, started: list[EpisodeState], batch: int, samples: int = 1) -> list[EpisodeState]:
        """Plays `samples` episodes from each state to their ends; those that are over leave the batch."""
        generator = torch.Generator(self._policy.device).manual_seed(seed_of("rewriting", self._seed, batch))
        observed = [rewriting.observe(state) for state in started]
        groups = sample_actions(self._policy, observed, samples, self._sampling, generator)
        states = [self._after(state, drawn) for state, group in zip(started, groups, strict=True) for drawn in group]
        while live := [row for row, state in enumerate(states) if not state.done]:
            observed = [rewriting.observe(states[row]) for row in live]
            sampled = sample_actions(self._policy, observed, 1, self._sampling, generator)
            for row, (drawn,) in zip(live, sampled, strict=True):
                states[row] = self._after(states[row], drawn)
        return states

    def _after(self, state: EpisodeState, drawn: SampledAction) -> EpisodeState:
        return rewriting.step(state, decode_action(self._policy, drawn.action), self._env)


def _problem(pair: Example) -> str | None:
    """What keeps a pair from being rewritten, or None."""
    for name in ("seeker_post", "response_post"):
        post: object = getattr(pair, name)
        if not isinstance(post, str):
            return f"{name} is {type(post).__name__}, not text: give a string"
        if any("\ud800" <= char <= "\udfff" for char in post):
            return f"{name} holds half a character (a lone surrogate): write the file as UTF-8"
        if not text.split(post).sentences:
            return f"{name} is empty: give a post with visible text"
    return None
