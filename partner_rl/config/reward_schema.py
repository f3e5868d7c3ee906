"""The rewards' sections of the configuration: the components, their actor pools, and the training of their models."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from partner_rl.config.paths import CoherenceFolder, EmpathyFolder, LanguageModelName
from partner_rl.config.section import (
    Adjustable,
    Fraction,
    LoraSection,
    NonNegative,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Processes,
    Section,
)


class WeightedSection(Section):
    """What every component of the reward has."""

    weight: float
    """Weight of the component in the reward."""
    schedule: tuple[tuple[Positive, float], ...] | None = None
    """The weight in training as (iteration, weight) points, such as [[1, 0.0], [50, 2.0]]: linear between points,
    constant before the first and after the last; null for `weight` throughout. Evaluation always takes `weight`."""

    @model_validator(mode="after")
    def _schedule_goes_forward(self) -> WeightedSection:
        if self.schedule is not None:
            iterations = [iteration for iteration, _ in self.schedule]
            if not iterations or any(later <= earlier for earlier, later in pairwise(iterations)):
                raise ValueError(f"schedule needs at least one point, and ascending iterations (found {iterations})")
        return self

    @property
    def is_scheduled(self) -> bool:
        """Whether the schedule gives the component a weight in some iterations."""
        return any(weight != 0.0 for _, weight in self.schedule or ())

    @property
    def is_active(self) -> bool:
        """Whether the component is part of the reward, at least in some iterations."""
        return self.weight != 0.0 or self.is_scheduled


class RewardSection(WeightedSection):
    """What every component has that actors score."""

    measures: ClassVar[bool] = True
    """Whether an evaluation measures with the component, whatever it weighs."""

    replicas: Adjustable[Processes | None] = None
    """Actors of this component's pool; null for `rewards.replicas`."""
    num_gpus: Adjustable[NonNegativeFloat] = 0.0
    """GPUs, or a fraction of one, that each actor reserves."""
    micro_batch: Adjustable[Positive] = 16
    """Items that one call to an actor scores."""

    @property
    def is_scored(self) -> bool:
        """Whether an evaluation needs the component's actors."""
        return self.measures or self.is_active


class EmpathyConfig(RewardSection):
    """Change in empathy (PARTNER, section 4.4)."""

    weight: float = 1.0
    """Weight `w_e`."""
    checkpoint: EmpathyFolder | None = None
    """Folder of a trained classifier; null trains one into the run folder."""
    score: Literal["expected", "argmax", "conservative"] = "expected"
    """Use the expected level of each mechanism; or the one that the classifier decides for, as the paper does; or what
    an ensemble is sure of, the mean of its members' expected levels less `deviations` standard deviations."""
    deviations: NonNegativeFloat = 1.0
    """Standard deviations of the members' levels that `score=conservative` takes off; 0 leaves their mean."""
    normalize: Literal["sum", "mechanisms"] = "sum"
    """What `algorithm.normalization` normalises: the change of all mechanisms together, or the change of each on its
    own with a third of the weight, so that the mechanism that is cheapest to raise does not crowd out the others."""
    max_tokens: Positive | None = None
    """Most tokens of a response that are read, a longer one in a window around its edit; null for as many as the
    classifier was trained on."""
    micro_batch: Adjustable[Positive] = 32
    """Items that one call to an actor scores."""


class FluencyConfig(RewardSection):
    """Fluency: inverse perplexity of the rewritten response."""

    weight: float = 10.0
    """Weight `w_f`."""
    repetition_penalty: NonNegativeFloat | None = 1.0
    """`λ` of `(1 − repeated share)^λ`, which a response that repeats itself is multiplied by; 0 makes repeats worthless
    but free, null takes the paper's fluency, which pays for them."""


class CoherenceConfig(RewardSection):
    """Sentence coherence: do candidate and other sentences belong to one response?"""

    weight: float = 0.1
    """Weight `w_c`."""
    checkpoint: CoherenceFolder | None = None
    """Folder of a trained classifier; null trains one into the run folder."""
    micro_batch: Adjustable[Positive] = 64
    """Items that one call to an actor scores."""


class MutualInformationConfig(RewardSection):
    """Mutual information between seeker post and rewritten response."""

    weight: float = 0.1
    """Weight `w_m`."""
    lambda_mi: Fraction = 0.5
    """Share of the forward model: `λ log p→(R̂|S) + (1−λ) log p←(S|R̂)`; a model without a share is not loaded."""
    forward_checkpoint: LanguageModelName | None = None
    """Folder of a fine-tuned forward model; null for `models.reward_lm`."""
    backward_checkpoint: LanguageModelName | None = None
    """Folder of a fine-tuned backward model; null for `models.reward_lm`."""


class ListenerConfig(RewardSection):
    """Listener: how surely the written sentence alone tells the seeker's post from others (`rewards/listener.py`)."""

    measures: ClassVar[bool] = False
    weight: float = 0.0
    """Weight of the component; its values are log-probabilities of the true post, nats: −2.8 is chance among 16."""
    scorer: Literal["encoder", "backward"] = "encoder"
    """Who listens: the sentence encoder, or the backward model of the mutual information, which costs a language
    model's pass for each of the posts."""
    candidates: Annotated[int, Field(ge=2, le=256)] = 16
    """Posts that the listener chooses among: the true one and training posts, read from `data.source` by the actors."""
    temperature: PositiveFloat | None = None
    """The relation of post and sentence is divided by this; null for the value at which supporters' own sentences find
    their posts likeliest (a cosine of 0.1; for the backward model 8 nats)."""


class VarietyConfig(WeightedSection):
    """How new the written word pairs and sentences are; part of training only (`partner_rl/algorithm/variety.py`)."""

    weight: float = 0.0
    """Weight of the component; its values are 0…1, from what every rewrite says to what no other does."""
    window: Positive = 512
    """Rewrites before this iteration that are compared with."""
    tolerance: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.02
    """Share of these rewrites that may hold a sentence at no cost."""
    sentence_share: Fraction = 1.0
    """Weight of how new the sentences are within the component; the rest is that of the word pairs."""
    opening_words: NonNegative = 0
    """Words at the start of a sentence that count as a sentence of their own, so that "I'm sorry to hear" before
    something new in every rewrite is common; 0 for none."""


class HonestyConfig(WeightedSection):
    """No sentence about the writer's own life; part of training only (`rewards/honesty.py`)."""

    weight: float = 0.0
    """Weight of the component: the share of the written sentences that do not speak of their writer, 0…1."""


class RewardsConfig(Section):
    """The four rewards and the listener, the actor pools that compute them (`rewards/`), variety and honesty."""

    empathy: EmpathyConfig = EmpathyConfig()
    """Change in empathy."""
    fluency: FluencyConfig = FluencyConfig()
    """Inverse perplexity."""
    coherence: CoherenceConfig = CoherenceConfig()
    """Sentence coherence."""
    mutual_information: MutualInformationConfig = MutualInformationConfig()
    """Mutual information."""
    listener: ListenerConfig = ListenerConfig()
    """Whether a sentence tells its post apart."""
    variety: VarietyConfig = VarietyConfig()
    """Variety of what is written."""
    honesty: HonestyConfig = HonestyConfig()
    """No invented experience."""
    replicas: Adjustable[Processes] = 1
    """Actors of each pool, unless the component says otherwise."""
    num_cpus: Adjustable[NonNegativeFloat] = 0.5
    """Logical CPUs that each reward actor reserves in Ray."""
    max_tokens: Positive = 256
    """Most tokens of a post that the scorers read at once. Of a longer response they read a window around the edit
    (fluency: all of it, piece by piece), of a longer seeker's post the beginning."""
    timeout_s: Adjustable[PositiveFloat] = 300.0
    """A micro-batch that takes longer counts as failed: its actor is killed, restarted and the batch sent again."""
    max_retries: Adjustable[NonNegative] = 3
    """Attempts after the first before a failing micro-batch ends the run."""
    cache_size: Adjustable[NonNegative] = 100_000
    """Scores that the evaluation keeps, so that what systems share is computed once; 0 for none. Training scores each
    iteration anew: with a cache, its batches, and so the last bits of its scores, would depend on what came before."""

    def components(self) -> dict[str, WeightedSection]:
        """The sections of the components by name."""
        sections = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: section for name, section in sections.items() if isinstance(section, WeightedSection)}

    def weights(self) -> dict[str, float]:
        """The weights of the components by name, schedules aside."""
        return {name: section.weight for name, section in self.components().items()}


class RewardTrainingConfig(Section):
    """Training of the small reward classifiers when no checkpoint is given."""

    empathy_epochs: Positive = 4
    """Passes over the labelled pairs (paper: 4)."""
    empathy_learning_rate: PositiveFloat = 2e-5
    """Learning rate of the response encoder's highest layer (paper: 2e-5, for a larger encoder)."""
    empathy_layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Each layer of the empathy encoder learns this many times as fast as the one above it."""
    empathy_max_tokens: Positive = 256
    """Tokens of a response that the empathy classifier is trained on (paper: 64), and so reads at once in use."""
    empathy_ngram_weight: Fraction = 0.5
    """Share of a regression on the response's word n-grams in the levels' logits; 0 leaves the encoder alone."""
    empathy_members: Positive = 1
    """Classifiers of the ensemble, each of which takes the time of one; `rewards.empathy.score=conservative` needs two
    or more, the other scores read the first alone."""
    empathy_patience: Positive = 3
    """Stop after this many epochs in a row without a better loss on the dev pairs; the best epoch is kept."""
    head_learning_rate: PositiveFloat = 1e-3
    """Learning rate of attention and heads."""
    batch_size: Positive = 32
    """Pairs in a step (paper: 32)."""
    max_tokens: Positive = 64
    """Tokens of each sentence that the coherence classifier is trained on, and of each seeker post that its topics are
    found by."""
    frozen_layers: NonNegative = 0
    """Lowest layers of the empathy encoder (with the embeddings) that are not trained."""
    level_loss_weight: NonNegativeFloat = 1.0
    """`lambda_EI`, weight of the level loss."""
    rationale_loss_weight: NonNegativeFloat = 0.5
    """`lambda_RE`, weight of the rationale loss."""
    coherence_epochs: Positive = 4
    """Passes over the sentence pairs."""
    coherence_frozen_layers: NonNegative = 0
    """Lowest layers of the coherence encoder that are not trained; as many as it has leaves the head alone to train."""
    coherence_max_responses: Positive | None = None
    """Make sentence pairs from at most this many responses; null for all."""
    coherence_batch_size: Positive = 32
    """Responses in a step; each stands beside another one of its topic."""
    coherence_learning_rate: PositiveFloat = 5e-5
    """Learning rate of the coherence encoder's trained layers."""
    coherence_head_learning_rate: PositiveFloat = 3e-2
    """Learning rate of the weights of similarity and style, which are few."""
    coherence_hard_negatives: Fraction = 0.5
    """Share of hard negatives (sentences of responses about the same topic) in the weight of all negatives."""
    coherence_neighbours: Positive = 5
    """Hard negatives are of responses to the same seeker or to one of this many of the most similar seeker posts."""
    mi_epochs: Positive = 2
    """Most passes of a dialogue model over its pairs; the best one by held-out perplexity is kept."""
    mi_patience: Positive = 1
    """Stop after this many passes in a row without a better held-out perplexity."""
    mi_learning_rate: PositiveFloat = 5e-4
    """Peak learning rate of the dialogue models; take about 2e-5 when every weight is trained."""
    mi_contrast: NonNegativeFloat = 0.0
    """Weight of a term that tells a pair's own condition from a wrong one; 0 for likelihood alone."""
    mi_lora: LoraSection | None = LoraSection()
    """Adapters of the dialogue models, merged into the weights at the end; null trains the weights themselves."""
    mi_trained_layers: Positive | None = None
    """Train the highest this many layers only, so that the backward pass ends there; null trains all."""
    mi_batch_tokens: Positive = 1024
    """Padded tokens in an optimizer step of one process; a longer pair is a step alone."""
    mi_max_pairs: Positive | None = None
    """Train each dialogue model on at most this many pairs; null for all."""
    mi_max_dev_pairs: Positive = 64
    """Compute the held-out perplexity on at most this many dev pairs."""
    mi_max_test_pairs: Positive | None = 200
    """Report on at most this many test pairs, before and after training; null for all."""
    max_pairs: Positive | None = None
    """Train the empathy classifier on at most this many pairs; null for all."""
