"""The keys of every metric that a run logs, in one place.

`metrics.jsonl`, TensorBoard and W&B all use them. Values are floats; the unit is in the comment of the key, else the
metric has none. A key with a suffix is made by a function.
"""

from __future__ import annotations

from typing import Final

from partner_rl.positions import PositionKind, decode_position, num_positions

REWARD: Final = "reward/"
POLICY: Final = "policy/"
POSITIONS: Final = "policy/position/"
TIME: Final = "time/"
THROUGHPUT: Final = "throughput/"
MACHINE: Final = "machine/"
"""Beginnings of keys."""

STEP: Final = "step"
"""The iteration, counted from 1: the horizontal axis of every curve."""

REWARD_TOTAL: Final = "reward/total"
"""Mean over the iteration's episodes of the reward that is trained on."""
REWARD_STD: Final = "reward/std"
"""Standard deviation of the total reward over the iteration's episodes."""

POLICY_KL: Final = "policy/kl"
"""KL divergence from the warm-started policy, nats a token."""
POLICY_KL_SENTENCE: Final = "policy/kl_sentence"
"""KL divergence from the warm-started policy, nats an action: position and sentence together."""
POLICY_KL_COEFF: Final = "policy/kl_coeff"
"""Weight of the KL penalty."""
POLICY_POSITION_ENTROPY: Final = "policy/position_entropy"
"""Entropy of the position, nats."""
POLICY_SENTENCE_ENTROPY: Final = "policy/sentence_entropy"
"""Entropy of the sentence's tokens, nats a token."""
POLICY_SENTENCE_TOKENS: Final = "policy/sentence_tokens"
"""Mean length of the generated sentences, tokens."""
POLICY_DISTINCT_SENTENCES: Final = "policy/distinct_sentences"
"""Share of the iteration's generated sentences that are unique."""
POLICY_COMMONEST_SENTENCE: Final = "policy/commonest_sentence"
"""Share of the iteration's generated sentences that are the commonest one, case and punctuation aside."""
POLICY_COMMONEST_OPENING: Final = "policy/commonest_opening"
"""Share of the iteration's generated sentences that begin with the commonest four words."""
POLICY_EFFECTIVE_OPENINGS: Final = "policy/effective_openings"
"""Exponential of the entropy of their first four words."""

TRAIN_LOSS: Final = "train/loss"
"""Loss of the update: policy gradient, KL penalty and entropy bonus."""
TRAIN_GRAD_NORM: Final = "train/grad_norm"
"""Global gradient norm before clipping."""
TRAIN_LOGPROB_GAP: Final = "train/logprob_gap"
"""Largest |log-probability at training − at sampling| before the iteration's update, nats a token."""
TRAIN_LOGPROB_GAP_MEAN: Final = "train/logprob_gap_mean"
"""The same, mean over tokens."""
TRAIN_LOGPROB_GAP_P99: Final = "train/logprob_gap_p99"
"""The same, 99th percentile over tokens."""
TRAIN_TRUNCATED_WEIGHTS: Final = "train/truncated_weights"
"""Share of tokens whose importance weight, which corrects for bfloat16's rounding, was cut off; bfloat16 only."""
TRAIN_RATIO: Final = "train/ratio"
"""Mean importance ratio of policy to sampler over the update's steps; logged where ratios are used."""
TRAIN_CLIP_FRACTION: Final = "train/clip_fraction"
"""Share of tokens (or of actions, with sequence ratios) whose gradient was clipped away."""
TRAIN_SAMPLER_KL: Final = "train/sampler_kl"
"""KL divergence of the updated policy from the one that sampled (k3 estimate), nats a token."""
TRAIN_ADVANTAGE_STD: Final = "train/advantage_std"
"""Standard deviation of the advantages that the update used."""
TRAIN_GROUPS_WITHOUT_SPREAD: Final = "train/groups_without_spread"
"""Share of groups whose samples all have the same advantage: these teach nothing."""

TIME_GENERATE: Final = "time/generate"
"""Seconds of an iteration spent sampling positions and sentences."""
TIME_SCORE: Final = "time/score"
"""Seconds spent waiting for the rewards."""
TIME_OVERLAP: Final = "time/overlap"
"""Seconds of scoring during which the policy generated: part of neither the other times nor the iteration's sum."""
TIME_UPDATE: Final = "time/update"
"""Seconds of forward and backward passes and optimizer steps."""
TIME_SYNC: Final = "time/sync"
"""Seconds of bringing new weights to the env runners."""
TIME_OTHER: Final = "time/other"
"""Seconds of the iteration that none of the other times covers: the framework's share."""
TIME_ITERATION: Final = "time/iteration"
"""Seconds of the whole iteration."""
TIME_JUDGE: Final = "time/judge"
"""Seconds that the held-out judge read this iteration's rewrites, after the iteration; logged when it did."""

EPISODES_PER_SECOND: Final = "throughput/episodes_per_second"
"""Episodes a second of the iteration."""
TOKENS_PER_SECOND: Final = "throughput/tokens_per_second"
"""Generated tokens a second of the iteration."""
EPISODES_TOTAL: Final = "throughput/episodes_total"
"""Episodes since the run began."""


def reward_raw(component: str) -> str:
    """Mean score of a reward component as the component defines it."""
    return f"reward/raw/{component}"


def reward_weighted(component: str) -> str:
    """Mean contribution of a reward component to the total reward."""
    return f"reward/weighted/{component}"


def reward_normalised(component: str) -> str:
    """Mean of a reward component after `algorithm.normalization`; logged unless that is `none`."""
    return f"reward/normalised/{component}"


def reward_weight(component: str) -> str:
    """Weight of a reward component in this iteration; logged for those with a schedule."""
    return f"reward/weight/{component}"


def reward_spread(component: str) -> str:
    """How much of the update a component decides.

    The root mean square of its weighted (and, if so configured, normalised) value around its group's mean.
    """
    return f"reward/spread/{component}"


def reward_without_spread(component: str) -> str:
    """Share of groups in which a component is the same for all samples, so that it tells none from another."""
    return f"reward/without_spread/{component}"


def reward_detail(name: str) -> str:
    """Mean of a further metric of a component (`RewardBreakdown.details`); the name starts with the component's."""
    return f"reward/detail/{name}"


def position_share(position: int, window: int) -> str:
    """Share of episodes' edits at one position of a window: `insert_0`, `replace_0`, … or `noop`.

    Raises:
        ValueError: The position is outside `0…2k+1`.
    """
    decoded = decode_position(position, window)
    name = decoded.kind.value if decoded.kind is PositionKind.NOOP else f"{decoded.kind.value}_{decoded.index}"
    return f"{POSITIONS}{name}"


def position_shares(window: int) -> tuple[str, ...]:
    """The keys of all `2k+2` positions of a window of `k` sentences, in the order of their numbers."""
    return tuple(position_share(position, window) for position in range(num_positions(window)))


def guard(name: str) -> str:
    """A guard's mean over the last iterations (see `docs/guards.md`); `alarms` counts those that are raised."""
    return f"guard/{name}"


def machine(name: str) -> str:
    """How the driver's host fares: `memory`, the share in use, and the machine's guards as in `guard`."""
    return f"{MACHINE}{name}"


OF_THE_MACHINE: Final = (TIME, THROUGHPUT, MACHINE)
"""Beginnings of the keys whose values depend on the machine, and differ when a run is repeated."""


def system(node: str, metric: str) -> str:
    """A metric of a node of the cluster, such as `cpu_percent`; to W&B only."""
    return f"system/{node}/{metric}"


WARMSTART_LOSS: Final = "warmstart/train_loss"
"""Training loss of an optimizer step of the warm start: position plus mean token, in nats."""
WARMSTART_EPOCH: Final = "warmstart/epoch"
"""Passes over the warm start's examples; 0 before training."""
WARMSTART_EPOCH_LOSS: Final = "warmstart/epoch_train_loss"
"""Mean training loss of a pass's steps."""


def warmstart_dev(metric: str) -> str:
    """A held-out metric of the warm start after a pass: `loss`, `position_loss`, `token_loss`, `position_accuracy`."""
    return f"warmstart/dev/{metric}"
