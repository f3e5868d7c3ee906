"""The phases of a run, in order: data, reward models, warm start, RL, evaluation.

Each phase leaves its result in the run folder under its final name only when it is whole, and is passed over when it
is already there: that is how `--resume` works.
"""

from __future__ import annotations

import json
import logging
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from envs import text
from launch.console import progress
from launch.interrupt import stop_on_request
from launch.resources.device import device_of
from launch.resources.plan import Plan
from launch.run_folder.folder import RunFolder
from partner_rl.config.schema import RunConfig
from partner_rl.data.readers import read_examples, reasons
from partner_rl.data.splits import SplitName, Splits, select_pairs, split_examples
from partner_rl.models.cards import CARD, model_card
from partner_rl.models.sources import resolve
from partner_rl.policy.model import Policy
from partner_rl.policy.pretrained import load_policy, save_policy
from partner_rl.rewriter import Rewrite
from partner_rl.storage.atomic import folder_when_whole, text_when_whole, write_json, write_text
from partner_rl.types import Example, PartnerError
from partner_rl.warmstart.examples import WarmStartExamples, make_examples, read_examples_of
from partner_rl.warmstart.train import train_warmstart
from rewards.coherence import NAME as COHERENCE
from rewards.empathy import NAME as EMPATHY
from rewards.pool import RewardPools, create_pools
from rewards.registry import COMPONENTS, all_components, trained_folder
from rewards.training.coherence_training import train_coherence
from rewards.training.empathy_training import train_members

logger = logging.getLogger(__name__)


def load_splits(config: RunConfig) -> Splits:
    """Reads the corpus and splits it by seeker; says how many rows were unusable."""
    with progress("Reading the corpus") as report:
        result = read_examples(config.data.source, config.data.max_post_characters, report)
    if result.rejects:
        logger.warning(
            "%d rows of %s cannot be used (%s); `partner-rl data convert` lists them",
            len(result.rejects),
            config.data.source,
            reasons(result.rejects),
        )
    if result.remarks:
        logger.info("%s: %s", config.data.source, reasons(result.remarks))
    splits = split_examples(result.examples, config.data)
    train = select_pairs(splits.train, config.data.max_train_pairs, config.data.split_salt)
    if not train or not splits.test:
        raise PartnerError(
            f"{config.data.source} leaves {len(train)} training and {len(splits.test)} test pairs: "
            "give more pairs or other data.train_fraction"
        )
    logger.info("%d training, %d dev and %d test pairs", len(train), len(splits.dev), len(splits.test))
    return Splits(train=train, dev=splits.dev, test=splits.test)


def rewritable(pairs: Sequence[Example], config: RunConfig) -> list[Example]:
    """The pairs whose responses are to be rewritten: labelled at most `data.max_empathy`, or not labelled."""
    return [p for p in pairs if p.empathy is None or p.empathy <= config.data.max_empathy]


def require_rewritable(config: RunConfig, splits: Splits, *held_out: SplitName) -> None:
    """Refuses, before anything is computed, a corpus without a pair to rewrite for training or for a held-out split.

    Raises:
        PartnerError: One has none.
    """
    for split in ("train", *held_out):
        if not rewritable(getattr(splits, split), config):
            raise PartnerError(
                f"{config.data.source}: no pair of the {split} split has an empathy of at most data.max_empathy="
                f"{config.data.max_empathy}: raise that, give more pairs, or change data.train_fraction and "
                "data.dev_fraction"
            )


def train_reward_models(config: RunConfig, run: RunFolder, splits: Splits) -> None:
    """Trains, into the run folder, the classifiers that the configuration gives no checkpoint for."""
    empathy, coherence = (trained_folder(run.path, name) for name in (EMPATHY, COHERENCE))
    trains_empathy = config.rewards.empathy.checkpoint is None and not empathy.exists()
    trains_coherence = config.rewards.coherence.checkpoint is None and not coherence.exists()
    if not trains_empathy and not trains_coherence:
        return
    encoder = resolve(config.models.encoder, config.models.cache)
    settings, device = config.reward_training, device_of(config)
    if trains_empathy:
        with progress("Training the empathy classifier") as report:
            ensemble, results = train_members(
                splits.train, splits.dev, encoder, settings, config.seed, device, progress=report
            )
        with folder_when_whole(empathy) as temporary:
            ensemble.save(temporary)
        for name, scores in results[0].mechanisms.items():
            logger.info(
                "%s on dev pairs: accuracy %.2f, macro-F1 %.2f",
                name.replace("_", " "),
                scores.levels.accuracy,
                scores.levels.macro_f1,
            )
    if trains_coherence:
        with progress("Training the coherence classifier") as report, folder_when_whole(coherence) as folder:
            train_coherence(
                splits.train,
                splits.dev,
                encoder,
                settings,
                folder,
                config.seed,
                split_sentences=lambda post: text.split(post).sentences,
                device=device,
                progress=report,
            )


def warm_start_examples(config: RunConfig, run: RunFolder, splits: Splits) -> WarmStartExamples | None:
    """What the warm start is to learn from; None where its policy is there.

    To be made first: a corpus that gives no example must not cost the training of reward models.

    Raises:
        PartnerError: There is none.
    """
    if config.warmstart.checkpoint is not None or run.warm_start.exists():
        return None
    source = config.warmstart.data
    return make_examples(config, splits) if source is None else read_examples_of(config, Path(source))


def warm_start(config: RunConfig, run: RunFolder, examples: WarmStartExamples | None) -> Path:
    """Trains the policy on the examples of `warm_start_examples`, unless there is one; returns its folder."""
    if examples is None:
        return run.warm_start if config.warmstart.checkpoint is None else Path(config.warmstart.checkpoint)
    torch.manual_seed(config.seed)
    policy = load_policy(
        resolve(config.models.policy, config.models.cache), config.policy, config.env.window, device_of(config)
    )
    work = run.warm_start_training
    with progress("Warm start") as report, stop_on_request("finishing this step and saving") as stop:
        result = train_warmstart(
            policy, examples.train, examples.dev, config.warmstart, work, config.seed, report, stop
        )
    with folder_when_whole(run.warm_start) as temporary:
        save_policy(policy, temporary)
        write_json(temporary / "warm_start.json", result.as_json())
    shutil.rmtree(work, ignore_errors=True)
    return run.warm_start


@contextmanager
def reward_pools(config: RunConfig, run: RunFolder, plan: Plan) -> Iterator[RewardPools]:
    """The reward actors of the plan, for the time of a block."""
    # A run that is started again may find the actors of its former process still dying.
    run_id = f"{run.path.name}-{secrets.token_hex(4)}"
    with progress("Starting the reward actors") as report:
        placed = config.resources.placement.share("rewards")
        groups = {name: plan.reward_group(name) for name in COMPONENTS}
        components = {name: one for name, one in all_components(config, run.path).items() if groups[name]}
        # All of them have as many: they share the machine's cores.
        threads = max((group.threads for group in groups.values() if group), default=1)
        pools = create_pools(components, config.rewards, run_id, threads, report, resources=placed)
    with pools:
        yield pools


def exported_policy(folder: Path, config: RunConfig) -> Policy:
    """Loads a policy whose adapters, if it was trained with some, are merged into its weights.

    Raises:
        PartnerError: The folder holds no policy of this window.
    """
    merged = config.policy.model_copy(update={"lora": None})
    return load_policy(folder, merged, config.env.window, device_of(config))


def rewrite_record(rewrite: Rewrite, scores: dict[str, float] | None) -> dict[str, Any]:
    """A rewrite as one JSON object."""
    edits = [
        {
            "kind": str(edit.kind),
            "sentence_index": edit.sentence_index,
            "sentence": edit.sentence,
            "replaced": edit.replaced,
        }
        for edit in rewrite.edits
    ]
    return {
        "seeker_post": rewrite.example.seeker_post,
        "response_post": rewrite.example.response_post,
        "rewritten_response": rewrite.rewritten_response,
        "edits": edits,
        "scores": scores,
    }


def without_texts(record: Mapping[str, Any]) -> dict[str, Any]:
    """What `rewrite_record` gives, without any text: where the edits are, and the scores."""
    edits = [{key: edit[key] for key in ("kind", "sentence_index")} for edit in record["edits"]]
    return {"edits": edits, "scores": record["scores"]}


def write_jsonl(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes records, one JSON object a line, whole or not at all."""
    with text_when_whole(path) as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def export_policy(policy: Policy, config: RunConfig, run: RunFolder) -> None:
    """Writes the trained policy and a model card to `export/`, whole or not at all."""
    with folder_when_whole(run.export) as temporary:
        save_policy(policy, temporary)
        write_text(temporary / CARD, policy_card(config))


@dataclass
class PhaseClock:
    """Measures the seconds of phases; with `planned`, as many are announced by their numbers."""

    planned: int | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    _begun: int = 0

    @contextmanager
    def phase(self, name: str, title: str) -> Iterator[None]:
        """Announces a phase and measures it."""
        self._begun += 1
        logger.info("%s", title if self.planned is None else f"{self._begun}/{self.planned} {title}")
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def policy_card(config: RunConfig) -> str:
    """The model card of a trained policy; of local paths it gives the last part only."""
    settings = config.algorithm
    text = f"""# Empathic rewriting policy

- Started from: {Path(config.models.policy).name}
- Data: {Path(config.data.source).name}, seed {config.seed}
- Warm start on sentences of real responses, then reinforcement learning: {settings.advantage}, {settings.iterations}
  iterations of {settings.groups_per_iteration} posts × {settings.samples_per_group} samples

It reads a seeker's post and up to {config.env.window} sentences of a response, and answers with a position token and a
sentence. Use it with `partner-rl rewrite --model FOLDER`.

Its rewrites are suggestions for a human supporter to read before they are sent. Its rewards are classifiers' scores,
which do not show that a rewrite helps a person in distress.
"""
    return model_card(text, "empathic-rewriting")
