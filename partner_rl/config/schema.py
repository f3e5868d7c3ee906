"""The typed configuration of a run: every key that a YAML file, an override or a sweep may set.

Sections mirror the packages that read them. Values are strict: an unknown key, a wrong type or a contradiction is an
error before anything starts (see `partner_rl.config.load`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from partner_rl.config.guard_schema import GuardsConfig
from partner_rl.config.paths import (
    SAMPLE,
    BasePolicyName,
    CacheFolder,
    Corpus,
    EncoderName,
    Examples,
    JudgeFolder,
    LanguageModelName,
    PolicyFolder,
    RunsFolder,
    Seq2SeqFolder,
)
from partner_rl.config.reward_schema import RewardsConfig, RewardTrainingConfig
from partner_rl.config.section import (
    Adjustable,
    DType,
    Fixed,
    Fraction,
    LoraSection,
    NonNegative,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Processes,
    RemoteProcesses,
    Section,
    Seed,
)


class DataConfig(Section):
    """Where the pairs come from and how they are split."""

    source: Corpus = SAMPLE
    """`sample` (the corpus that ships with the package), a folder in the EPITOME CSV layout, a .csv, .tsv, .jsonl or
    .parquet file, or a folder of such files."""
    train_fraction: Fraction = 0.8
    """Share of seekers whose pairs are trained on."""
    dev_fraction: Fraction = 0.05
    """Share of seekers held out for model selection; what is left is the test split."""
    split_salt: str = "partner"
    """Changes which seekers fall into which split."""
    max_train_pairs: Positive | None = None
    """Train on at most this many pairs (chosen by hash, so the same ones each time); null for all."""
    max_empathy: Annotated[int, Field(ge=0, le=6)] = 6
    """Rewrite only responses whose labelled empathy is at most this; unlabelled pairs are kept."""
    max_post_characters: Positive = 20_000
    """A longer post is a rejected row."""

    @model_validator(mode="after")
    def _fractions_leave_a_test_split(self) -> DataConfig:
        if self.train_fraction <= 0 or self.train_fraction + self.dev_fraction >= 1:
            raise ValueError(
                f"train_fraction {self.train_fraction} + dev_fraction {self.dev_fraction} must leave a test split: "
                "train_fraction must be above 0 and the sum below 1"
            )
        return self


class ModelsConfig(Section):
    """Pretrained models, each a local path, `hf:ORG/NAME`, `pypi:NAME` or `random:ARCHITECTURE`.

    `partner-rl models list` shows those that need no hub.
    """

    policy: BasePolicyName = "pypi:smollm2-135m-instruct"
    """The causal language model that is warm-started and trained."""
    reward_lm: LanguageModelName = "pypi:smollm2-135m-instruct"
    """The causal language model behind fluency and mutual information."""
    encoder: EncoderName = "pypi:all-minilm-l6-v2"
    """The encoder behind the empathy and coherence classifiers and the specificity metric."""
    cache_dir: Adjustable[CacheFolder | None] = None
    """Folder of converted models; null for `$PARTNER_RL_CACHE`, else `~/.cache/partner-rl`."""

    @property
    def cache(self) -> Path | None:
        """`cache_dir` as a path."""
        return None if self.cache_dir is None else Path(self.cache_dir)


class EnvConfig(Section):
    """The rewriting task (`envs/`)."""

    window: Annotated[int, Field(ge=1, le=16)] = 4
    """`k`: sentences of the response that the policy sees at once; there are `2k+2` positions."""
    max_edits: Positive = 1
    """An episode ends after this many edits, or when the last window was left alone."""
    positions: Literal["all", "end"] = "all"
    """Which positions there are: all `2k+2`, or only after the response's last sentence (an ablation)."""


class PolicyConfig(Section):
    """The policy: prompt lengths, sampling and what is trained."""

    max_seeker_tokens: Positive = 80
    """The seeker's post is cut to this many tokens in the prompt (the end of the post is kept)."""
    max_sentence_tokens: Positive = 40
    """Each sentence of the window is cut to this many tokens in the prompt."""
    max_new_tokens: Positive = 24
    """Longest generated sentence, in tokens."""
    unfinished: Literal["drop", "keep"] = "drop"
    """What becomes of a text that reached this length before its first sentence was whole: nothing is written, or half
    a sentence is. Random models end no sentence and need `keep`."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature of position and sentence; log-probabilities are those of the scaled distribution."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Nucleus sampling of a sentence's tokens while training; the words that are left travel with the sample, and its
    log-probability is that among them. The position is never truncated."""
    top_k: NonNegative = 0
    """Sample a sentence's tokens among this many likeliest ones while training; 0 for all."""
    lora: LoraSection | None = None
    """Train low-rank adapters and the new token rows only; null trains every weight."""
    attention: Adjustable[Literal["auto", "sdpa", "flex"]] = "sdpa"
    """Attention over a group's packed actions in the update: `flex` skips the blocks that the mask rules out and stores
    no mask; `auto` takes it on a GPU."""
    compile: Adjustable[bool] = False
    """Compile the decoding step: worth the minute that it takes in long runs on a GPU."""
    dtype: DType = "float32"
    """Compute type; with bfloat16 the trained weights stay float32 and the forward pass runs under autocast."""


class WarmStartConfig(Section):
    """Supervised warm start of position and sentence."""

    checkpoint: PolicyFolder | None = None
    """Folder of a warm-started policy, such as `partner-rl warmstart` writes; null trains one into the run folder."""
    data: Examples | None = None
    """Folder or file of examples that `partner-rl data warmstart-pairs` wrote; null makes them from `data.source`."""
    epochs: NonNegative = 2
    """Passes over the examples; 0 starts RL from the pretrained model."""
    max_examples: Positive | None = None
    """Use at most this many examples; null for all."""
    max_sentences: Positive = 1
    """Take out as many adjacent empathic sentences at once; above 1 the policy learns to write several in a row."""
    own_experience: bool = True
    """Learn from sentences that speak of their writer's life ("I've been there"), as the paper does. A supporter may
    say so, a language model invents it; `warmstart.data` was made with a choice of its own."""
    max_dev_examples: Positive = 64
    """Score held-out loss and position accuracy on at most this many examples."""
    noop_fraction: Fraction = 0.1
    """Share of examples in which an already empathic response is to be left alone."""
    batch_size: Positive = 8
    """Examples in an optimizer step, those of all processes together."""
    row_tokens: Positive | None = None
    """Pack a step's examples into rows of at most this many tokens; null gives each example a row of its own and makes
    steps of examples of similar length."""
    micro_batch_tokens: Adjustable[Positive] = 2048
    """Padded tokens in one forward and backward pass; gradients accumulate over the passes of a step."""
    gradient_checkpointing: Adjustable[bool] = False
    """Compute activations again in the backward pass instead of keeping them: less memory, a third more time."""
    learning_rate: PositiveFloat = 1e-4
    """Peak learning rate, reached after a tenth of the steps and decayed linearly to zero."""
    patience: Positive | None = None
    """Stop after this many epochs in a row without a better held-out loss; null makes all epochs."""
    checkpoint_steps: Adjustable[Positive | None] = None
    """Steps between training states inside an epoch; null keeps one at the end of each epoch and at Ctrl-C only."""


class AlgorithmConfigSection(Section):
    """The RL algorithm and its distribution over Ray."""

    iterations: Adjustable[Positive] = 20
    """Iterations of sample → score → advantage → update → sync."""
    groups_per_iteration: Positive = 4
    """Distinct states sampled in an iteration, over all env runners."""
    samples_per_group: Positive = 8
    """`K`: samples of each state."""
    advantage: Literal["reinforce", "self_critical", "rloo", "grpo"] = "rloo"
    """Estimator: `reinforce` with a moving-average baseline (paper), `self_critical` against the greedy rollout, `rloo`
    against the other samples of the group, `grpo` against the group's mean and in units of its standard deviation."""
    baseline_window: Positive = 20
    """Iterations in the moving average of `reinforce` (paper's code: 20)."""
    scale_advantages: bool = False
    """Divide an iteration's advantages by their standard deviation."""
    normalization: Literal["none", "running", "group"] = "none"
    """How components are made comparable before they are weighted: not at all; by mean and standard deviation over all
    samples so far; or each component's advantages by the standard deviation within their group (GDPO)."""
    component_clip: PositiveFloat | None = None
    """Hold a component's normalised values within ± this; null for no limit."""
    epochs: Positive = 1
    """Passes of the update over an iteration's groups; above 1 importance ratios correct for the moved policy."""
    minibatch_groups: Positive | None = None
    """Groups in an optimizer step, those of all learners together; null makes one step of all groups."""
    importance_ratio: Literal["token", "sequence"] = "token"
    """Ratio of policy to sampler, of each token (PPO) or of the whole action, length-normalised (GSPO); it matters when
    `clip_range` is set or an iteration makes several steps."""
    clip_range: PositiveFloat | None = None
    """PPO's `ε`: no further gain from ratios that left `1 ± ε`; null does not clip."""
    clip_range_high: PositiveFloat | None = None
    """A different `ε` above 1 (clip-higher of DAPO); null for `clip_range`."""
    learning_rate: PositiveFloat = 1e-5
    """Learning rate of AdamW (paper: 1e-5)."""
    weight_decay: NonNegativeFloat = 0.0
    """Weight decay of AdamW."""
    grad_clip: PositiveFloat = 1.0
    """Gradients are clipped to this global norm."""
    kl_coeff: NonNegativeFloat = 0.0
    """β: weight of the KL divergence from the warm-started policy, in units of the advantage a nat of the action, which
    is position and sentence together. 0 still measures it, on a quarter of the groups."""
    kl_gradient: Literal["k2", "sequence", "exact"] = "k2"
    """How its gradient is estimated: by the squared log ratio of each token; by the score function of the whole action
    with a leave-one-out baseline; or by each token's divergence over the whole vocabulary, which costs memory."""
    kl_target: PositiveFloat | None = None
    """Steer `kl_coeff` so that the KL divergence stays near this many nats a sentence; null keeps it as it is."""
    kl_horizon: PositiveFloat = 10.0
    """Inertia of the steered `kl_coeff`: an iteration changes it by at most 20 % divided by this."""
    position_entropy_coeff: NonNegativeFloat = 0.0
    """Weight of the entropy bonus on the position, in nats."""
    groups_per_chunk: Positive | None = None
    """An env runner generates this many groups while the rewards of those before are computed; null for all at once.
    Another number draws other samples."""
    micro_batch_tokens: Adjustable[Positive] = 4096
    """Padded tokens in one forward and backward pass of the update; gradients accumulate over passes."""
    num_env_runners: RemoteProcesses = 0
    """Remote env runners; 0 samples in the driver."""
    num_learners: Adjustable[RemoteProcesses] = 0
    """Remote learners; 0 updates in the driver."""
    num_gpus_per_env_runner: Adjustable[NonNegativeFloat] = 0.0
    """GPUs, or a fraction of one, of each remote env runner."""
    num_gpus_per_learner: Adjustable[NonNegativeFloat] = 0.0
    """GPUs, or a fraction of one, of each remote learner."""

    @model_validator(mode="after")
    def _group_estimators_need_groups(self) -> AlgorithmConfigSection:
        if self.samples_per_group < 2 and (self.advantage in ("rloo", "grpo") or self.normalization == "group"):
            name = "normalization 'group'" if self.normalization == "group" else f"advantage '{self.advantage}'"
            raise ValueError(f"{name} compares samples of one state: samples_per_group must be at least 2")
        for workers, name in ((self.num_env_runners, "num_env_runners"), (self.num_learners, "num_learners")):
            if workers and self.groups_per_iteration % workers:
                raise ValueError(
                    f"groups_per_iteration {self.groups_per_iteration} must be a multiple of {name} {workers}, "
                    "so that whole groups are shared out evenly"
                )
        return self

    @model_validator(mode="after")
    def _minibatches_are_equal(self) -> AlgorithmConfigSection:
        groups = self.minibatch_groups or self.groups_per_iteration
        if self.groups_per_iteration % groups or groups % max(1, self.num_learners):
            raise ValueError(
                f"minibatch_groups {groups} must divide groups_per_iteration {self.groups_per_iteration} and be a "
                f"multiple of num_learners {self.num_learners}, so that all steps are of the same size"
            )
        return self

    @model_validator(mode="after")
    def _options_belong_together(self) -> AlgorithmConfigSection:
        if self.clip_range_high is not None and self.clip_range is None:
            raise ValueError("clip_range_high is the upper side of clip_range: set clip_range, too")
        if self.kl_target is not None and self.kl_coeff == 0.0:
            raise ValueError("kl_target steers kl_coeff from its first value on: set kl_coeff above 0")
        if self.component_clip is not None and self.normalization == "none":
            raise ValueError("component_clip limits normalised values: set normalization to running or group")
        return self

    @property
    def steps_per_iteration(self) -> int:
        """Optimizer steps in an iteration."""
        return self.epochs * (self.groups_per_iteration // (self.minibatch_groups or self.groups_per_iteration))


class EvaluationConfig(Section):
    """Evaluation on held-out pairs."""

    max_pairs: Positive | None = 64
    """Evaluate on at most this many test pairs (chosen by hash); null for all."""
    temperature: PositiveFloat = 1.0
    """Sampling temperature (released code: 1)."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 0.92
    """Nucleus sampling (released code: 0.92)."""
    top_k: NonNegative = 60
    """Sample among this many likeliest tokens (released code: 60); 0 for all."""
    batch_size: Positive = 32
    """Responses that are rewritten together."""
    seq2seq: Seq2SeqFolder | None = None
    """Folder that `partner-rl baselines train-seq2seq` wrote, for the baseline `seq2seq`; null leaves it out."""
    judge: JudgeFolder | None = None
    """Folder of a held-out judge (`partner-rl judge train`), which no policy is trained against; null for none."""


class BaselinesConfig(Section):
    """Other ways of rewriting that `partner-rl evaluate --baselines` compares with."""

    max_post_tokens: Positive = 160
    """Each post is cut to this many tokens where a baseline's model reads it (of the seeker's post the end is kept)."""
    max_new_tokens: Positive = 80
    """Longest whole response that a baseline's model writes, in tokens."""
    best_of: Annotated[int, Field(ge=2)] = 8
    """Rewrites of the warm start that `best_of_n` chooses from, for each pair."""
    seq2seq_epochs: Positive = 3
    """Most passes of the sequence-to-sequence model over its examples; the best one by held-out perplexity is kept."""
    seq2seq_learning_rate: PositiveFloat = 5e-4
    """Peak learning rate of the sequence-to-sequence model; take about 2e-5 when every weight is trained."""
    seq2seq_lora: LoraSection | None = LoraSection()
    """Its adapters, merged into the weights at the end; null trains the weights themselves."""
    seq2seq_batch_tokens: Positive = 1024
    """Padded tokens in one of its optimizer steps, those of one process."""


class CheckpointConfig(Section):
    """Checkpoints of the training state."""

    every: Positive = 10
    """Iterations between checkpoints; the last iteration and Ctrl-C write one too."""
    keep: Positive = 2
    """Newest checkpoints that are kept; with 1 there is none to go back to when that one is damaged."""
    keep_every: Positive | None = None
    """Also keep each checkpoint after a multiple of this many iterations, for evaluation; null for none."""


class FaultsConfig(Section):
    """What a run does when something stands still or is full (`docs/reliability.md`)."""

    stall_s: PositiveFloat = 300.0
    """Seconds without a step of the run after which it says which actor everything waits for; a phase that always takes
    long is given three times what it took lately."""
    replace_stalled_s: PositiveFloat | None = None
    """An actor that everything has waited for so many seconds is killed, so that another one takes its place; null
    leaves it, and only says so. Must be more than any call takes."""
    snapshot_mb: NonNegativeFloat = 128.0
    """Weights and optimizer state of remote learners are kept in the driver's memory after each iteration, up to this
    many MiB, so that losing them costs one iteration; otherwise the run goes back to the newest checkpoint."""
    room_wait_s: NonNegativeFloat = 600.0
    """Seconds that a run waits for room when the disk of its folder, or Ray's object store, is full; then it ends."""


class TrackingConfig(Section):
    """Where metrics go besides `metrics.jsonl`."""

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """Where `WANDB_MODE` or `WANDB_DISABLED` say something more private, they decide. `auto` has no wish: without them
    it is online when `WANDB_API_KEY` is set, else offline."""
    project: Fixed[str] = "partner-rl"
    """W&B project."""
    entity: Fixed[str | None] = None
    """W&B user or team; null for the default one."""
    group: str | None = None
    """W&B group."""
    tags: tuple[str, ...] = ()
    """W&B tags."""
    notes: str | None = None
    """W&B notes: what the run is for."""
    artifacts: Literal["none", "final", "checkpoints"] = "none"
    """Models that W&B gets: none, the exported policy, or every checkpoint too, with aliases `latest` and `best`."""
    upload_wait_s: NonNegativeFloat = 30.0
    """Seconds to wait at the end of an online run until W&B has all of it; `partner-rl runs sync` sends the rest."""
    system_interval_s: PositiveFloat = 15.0
    """Seconds between two readings of CPU, memory, disk and GPUs of all nodes, which go to W&B."""
    tensorboard: bool = True
    """Write TensorBoard event files into the run folder."""
    sample_rows: NonNegative = 4
    """Rows of the before/after table at each logged step; 0 keeps texts out of the trackers."""
    redact: Fixed[bool] = False
    """Keep texts of posts out of what a run shows and writes: before/after rows (`samples.jsonl`, W&B) and
    `rewrites.jsonl` hold numbers only, reports hold no texts (`docs/security.md`)."""
    log_every: Positive = 1
    """Iterations between logged steps."""


class PlacementConfig(Section):
    """Which kind of nodes each kind of actors runs on (`docs/clusters.md`).

    Each key names a custom Ray resource of these nodes, as by `ray start --resources='{"reward": 1}'`; null takes any.
    """

    env_runners: str | None = None
    """Nodes of the env runners."""
    learners: str | None = None
    """Nodes of the remote learners."""
    rewards: str | None = None
    """Nodes of the reward actors."""

    def share(self, actors: Literal["env_runners", "learners", "rewards"]) -> dict[str, float]:
        """What each of these actors reserves of its nodes' resource: a trace, as it only marks the kind of node."""
        kind = {"env_runners": self.env_runners, "learners": self.learners, "rewards": self.rewards}[actors]
        return {} if kind is None else {kind: 0.001}

    @property
    def kinds(self) -> frozenset[str]:
        """The resources that are named."""
        return frozenset(kind for kind in (self.env_runners, self.learners, self.rewards) if kind is not None)


class ResourcesConfig(Section):
    """Ray cluster and threads."""

    address: str | None = None
    """Ray cluster to join (`auto` or HOST:PORT); null starts a local Ray."""
    driver_threads: Processes | None = None
    """Torch threads of the driver; null for all cores of the machine."""
    actor_threads: Processes | None = None
    """Torch threads of each actor; null shares the cores out evenly."""
    object_store_mb: Positive = 256
    """Object store of a locally started Ray, in MiB."""
    placement: PlacementConfig = PlacementConfig()
    """Kinds of nodes for kinds of actors."""
    wait_for_nodes_s: NonNegativeFloat = 0.0
    """Seconds that a run waits for a cluster to grow until every actor finds room, its autoscaler asked for the nodes;
    0 refuses a run at once that the cluster has no room for."""


class RunConfig(Section):
    """A whole run."""

    name: str | None = None
    """Name of the run folder; null for the preset's name and the time."""
    runs_dir: RunsFolder = "runs"
    """Folder of run folders."""
    seed: Seed = 0
    """Seed of everything random."""
    device: Adjustable[Literal["auto", "cpu", "cuda"]] = "auto"
    """Device of the driver's policy; `auto` takes a GPU when there is one."""
    data: DataConfig = DataConfig()
    """Pairs and splits."""
    models: ModelsConfig = ModelsConfig()
    """Pretrained models."""
    env: EnvConfig = EnvConfig()
    """The rewriting task."""
    policy: PolicyConfig = PolicyConfig()
    """The policy."""
    rewards: RewardsConfig = RewardsConfig()
    """Rewards and their pools."""
    reward_training: RewardTrainingConfig = RewardTrainingConfig()
    """Training of the reward classifiers."""
    warmstart: WarmStartConfig = WarmStartConfig()
    """Supervised warm start."""
    algorithm: AlgorithmConfigSection = AlgorithmConfigSection()
    """The RL algorithm."""
    evaluation: Adjustable[EvaluationConfig] = EvaluationConfig()
    """Evaluation."""
    baselines: Adjustable[BaselinesConfig] = BaselinesConfig()
    """Baselines of the evaluation."""
    guards: Adjustable[GuardsConfig] = GuardsConfig()
    """Guards against reward hacking and collapse."""
    checkpoint: Adjustable[CheckpointConfig] = CheckpointConfig()
    """Checkpoints."""
    faults: Adjustable[FaultsConfig] = FaultsConfig()
    """Stalls and full disks."""
    tracking: Adjustable[TrackingConfig] = TrackingConfig()
    """Tracking."""
    resources: Adjustable[ResourcesConfig] = ResourcesConfig()
    """Ray and threads."""

    @model_validator(mode="after")
    def _mechanisms_need_a_normalisation(self) -> RunConfig:
        if self.rewards.empathy.normalize == "mechanisms" and self.algorithm.normalization == "none":
            raise ValueError(
                "rewards.empathy.normalize=mechanisms normalises nothing with algorithm.normalization=none: "
                "set that to group or running"
            )
        return self

    @model_validator(mode="after")
    def _rewards_read_the_edit(self) -> RunConfig:
        written = self.env.max_edits * self.policy.max_new_tokens
        needed = written + 2 * self.policy.max_sentence_tokens
        lengths = {
            "rewards.max_tokens": self.rewards.max_tokens,
            "rewards.empathy.max_tokens": self.rewards.empathy.max_tokens,
            "reward_training.empathy_max_tokens": self.reward_training.empathy_max_tokens,
        }
        for key, length in lengths.items():
            if length is not None and length < needed:
                raise ValueError(
                    f"{key}={length} cannot hold the {written} tokens that an episode may write (env.max_edits, "
                    "policy.max_new_tokens) with a sentence before and after them (policy.max_sentence_tokens): "
                    f"set it to at least {needed}"
                )
        return self

    @model_validator(mode="after")
    def _a_bound_needs_members(self) -> RunConfig:
        section, members = self.rewards.empathy, self.reward_training.empathy_members
        if section.score == "conservative" and section.checkpoint is None and members < 2:
            raise ValueError(
                f"rewards.empathy.score=conservative is a bound over an ensemble, and "
                f"reward_training.empathy_members={members} trains no ensemble: set that to 3, or score=expected"
            )
        return self

    @model_validator(mode="after")
    def _judging_needs_a_judge(self) -> RunConfig:
        if self.guards.judge_every is not None and self.evaluation.judge is None:
            raise ValueError("guards.judge_every asks for a judge: set evaluation.judge to its folder, too")
        return self
