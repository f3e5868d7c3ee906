"""`partner-rl judge train`: the held-out judge, and how good it is on held-out pairs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from launch.commands.supervised import (
    DataOption,
    OutputOption,
    OverridesArgument,
    PresetOption,
    origin,
    training_config,
    training_splits,
    write_report,
)
from launch.console import out, progress
from launch.options import with_dry_run
from partner_rl.text.markdown import interval_text, markdown_table

if TYPE_CHECKING:
    from partner_rl.config.schema import RunConfig
    from partner_rl.evaluation.judge.training import JudgeReport


@with_dry_run
def command(
    data: DataOption,
    output: OutputOption,
    overrides: OverridesArgument = None,
    preset: PresetOption = "embedded",
) -> None:
    """Train the held-out judge and report on held-out pairs, beside the commonest level.

    Its language model is models.reward_lm, which stays as it is; it must be there whenever the judge is used.

    Example: `partner-rl judge train --data data/epitome --output models/judge`
    """
    from launch.resources.device import device_of
    from launch.resources.memory import judge_memory
    from partner_rl.evaluation.judge.judge import KIND
    from partner_rl.evaluation.judge.training import train_judge
    from partner_rl.models.sources import resolve
    from partner_rl.storage.atomic import folder_when_whole
    from partner_rl.storage.outputs import NewFolder

    config = training_config(preset, overrides, data)
    outputs = {NewFolder(output, KIND): "judge and report"}
    splits = training_splits(config, "models.reward_lm", outputs, judge_memory)
    language_model = resolve(config.models.reward_lm, config.models.cache)
    with folder_when_whole(output, KIND) as temporary:
        with progress("Reading the pairs with the language model") as report:
            judge, found = train_judge(
                (splits.train, splits.dev, splits.test),
                language_model,
                config.models.reward_lm,
                config.seed,
                device_of(config),
                report,
            )
        judge.save(temporary)
        metrics = {**asdict(found), "language_model": Path(config.models.reward_lm).name, **origin(config)}
        write_report(temporary, metrics, _card(config, found))
    out.print(_table(found), soft_wrap=True)
    out.print(f"{found.seconds:.0f} s; judge and report.json in {output}", soft_wrap=True)


def _card(config: RunConfig, report: JudgeReport) -> str:
    from partner_rl.evaluation.judge.states import RESPONSE_TOKENS, SEEKER_TOKENS
    from partner_rl.models.cards import model_card

    text = f"""# Held-out judge of empathy

Levels (0 none, 1 weak, 2 strong) of three mechanisms of empathy in a peer supporter's response to a seeker's post. It
measures policies and must not train one: a policy that is rewarded by a judge learns its mistakes.

```python
from pathlib import Path

from partner_rl.evaluation.judge import load_judge

load_judge(Path("FOLDER")).levels([("I failed the exam again.", "I am sorry. What happened?")])
```

- {Path(config.models.reward_lm).name}, frozen: the mean of its hidden states over the response, layers
  {" and ".join(map(str, report.layers))} of {report.num_layers}, after it has read the post; a logistic regression a
  mechanism on top
- Data: {Path(config.data.source).name}, {report.train_pairs} pairs to train on, {report.dev_pairs} to choose layers and
  penalties by log loss, split by seeker
- It reads the first {SEEKER_TOKENS} tokens of the post and the first {RESPONSE_TOKENS} of the response;
  {report.cut:.0%} of the test responses are longer

Test pairs ({report.test_pairs}), with 95 % bootstrap intervals (seekers resampled). Spearman: rank correlation of the
expected level with the label; {report.total_spearman:.2f} for the sum of the three. ECE: calibration error of the
probabilities.

{_table(report)}

It judges how a response reads, not whether it helps anybody, and should not be used to judge people.
"""
    return model_card(text, "empathy", "epitome", "judge", library=None)


def _table(report: JudgeReport) -> str:
    """The test metrics as a Markdown table."""
    rows = []
    for name, scores in report.test.items():
        levels, majority = scores.levels, scores.majority
        rows.append(
            [
                name.replace("_", " "),
                f"{levels.accuracy:.3f} ({interval_text(*levels.accuracy_interval)})",
                f"{levels.macro_f1:.3f} ({interval_text(*levels.macro_f1_interval)})",
                f"{majority.accuracy:.3f}",
                f"{majority.macro_f1:.3f}",
                f"{scores.spearman:.2f}",
                f"{scores.ece:.3f}",
                f"{scores.mean_expected:.2f}",
                f"{scores.mean_label:.2f}",
                ", ".join(map(str, levels.support)),
            ]
        )
    majority_columns = ["commonest level: accuracy", "macro-F1"]
    mean_columns = ["mean level: judge", "label", "pairs of level 0, 1, 2"]
    return markdown_table(
        ["mechanism", "accuracy", "macro-F1", *majority_columns, "Spearman", "ECE", *mean_columns], rows
    )
