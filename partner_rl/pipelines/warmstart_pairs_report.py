"""The report on a data set of warm-start examples: counts as JSON, a page with random examples, a chart.

The page shows texts of posts. It is part of the data set and as confidential as the posts are; logs and the JSON file
hold numbers only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from partner_rl.data.parquet_batches import REJECTED, REMARKED, counts_under
from partner_rl.plotting import new_canvas, save_png
from partner_rl.positions import PositionKind, decode_position
from partner_rl.storage.atomic import write_json, write_text
from partner_rl.text.markdown import markdown_table
from partner_rl.types import MECHANISMS
from partner_rl.warmstart.quotas import Cell

REPORT_JSON: Final = "report.json"
REPORT_PAGE: Final = "report.md"
REPORT_CHART: Final = "report.png"

SHOWN_CHARACTERS: Final = 400
"""Longer texts are cut on the page."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An example as the page shows it; a no-op has no sentence, no mechanism and level 0.

    Attributes:
        position: The edit's place, such as `insert 2`.
    """

    seeker_post: str
    span: tuple[str, ...]
    position: str
    sentence: str
    mechanism: str
    level: float


def sample_of(row: Mapping[str, Any]) -> Sample:
    """A row of a file of examples as a sample."""
    return Sample(
        row["seeker_post"],
        tuple(row["span"]),
        position_name(row["position"], row["window"]),
        row["sentence"],
        row["mechanism"] or "",
        row["level"] or 0.0,
    )


def position_name(position: int, window: int) -> str:
    """A position in words: `insert 0`, `replace 2`, `noop`."""
    decoded = decode_position(position, window)
    return str(decoded.kind) if decoded.kind is PositionKind.NOOP else f"{decoded.kind} {decoded.index}"


@dataclass(frozen=True, slots=True)
class PairsReport:
    """What a data set was made of.

    Attributes:
        extraction: What the first pass counted.
        before: Candidates of each cell, repeated ones counted once.
        files: Name of each file of examples → its rows.
    """

    settings: Mapping[str, Any]
    extraction: Mapping[str, int]
    before: Mapping[Cell, int]
    after: Mapping[Cell, int]
    repeated: int
    files: Mapping[str, int]
    samples: tuple[Sample, ...]

    @property
    def examples(self) -> int:
        """Examples in all."""
        return sum(self.after.values())

    def dropped(self) -> dict[str, int]:
        """Why → how many empathic sentences and no-op windows are in no example."""
        dropped = counts_under(self.extraction, "dropped/")
        dropped["repeats another example"] = self.repeated
        dropped["left out for the balance"] = sum(self.before.values()) - self.examples
        return dropped

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values; holds no text of a post."""
        return {
            "settings": dict(self.settings),
            "rejected": counts_under(self.extraction, REJECTED),
            "remarks": counts_under(self.extraction, REMARKED),
            "responses": counts_under(self.extraction, "responses/"),
            "sentences": self.extraction.get("sentences", 0),
            "empathic_sentences": counts_under(self.extraction, "empathic/"),
            "check_by_rationales": {
                mechanism: counts_under(self.extraction, f"check/{mechanism}/")
                for mechanism in MECHANISMS
                if counts_under(self.extraction, f"check/{mechanism}/")
            },
            "dropped": self.dropped(),
            "candidates": self._tallies(self.before),
            "examples": self._tallies(self.after),
            "files": dict(self.files),
        }

    def _tallies(self, cells: Mapping[Cell, int]) -> dict[str, Any]:
        window = int(self.settings["window"])
        return {
            "all": sum(cells.values()),
            "by_mechanism": tally(cells, lambda cell: cell.mechanism or str(PositionKind.NOOP)),
            "by_position": tally(cells, lambda cell: position_name(cell.position, window)),
            "by_both": {
                mechanism: tally(
                    {cell: count for cell, count in cells.items() if cell.mechanism == mechanism},
                    lambda cell: position_name(cell.position, window),
                )
                for mechanism in MECHANISMS
            },
        }


def tally(cells: Mapping[Cell, int], key: Callable[[Cell], str]) -> dict[str, int]:
    """Counts by a property of the cells, in the order of the properties' names; empty ones left out."""
    counts: Counter[str] = Counter()
    for cell, count in cells.items():
        counts[key(cell)] += count
    return {name: counts[name] for name in sorted(counts) if counts[name]}


def write_report(report: PairsReport, folder: Path) -> None:
    """Writes the chart, the page and, last, the JSON file; each appears complete or not at all."""
    _draw(report, folder / REPORT_CHART)
    write_text(folder / REPORT_PAGE, _page(report))
    write_json(folder / REPORT_JSON, report.as_json())


def _page(report: PairsReport) -> str:
    content = report.as_json()
    before, after = content["candidates"], content["examples"]
    parts = [
        "# Warm-start examples",
        f"{report.examples} examples from {content['responses'].get('used', 0)} responses. This page shows texts of "
        "posts: treat it like them.",
        "## Settings",
        markdown_table(("setting", "value"), report.settings.items()),
        "## Input",
        markdown_table(("responses", "count"), content["responses"].items()),
        markdown_table(("empathic sentences", "count"), content["empathic_sentences"].items()),
        "## Balance",
        markdown_table(("mechanism", "candidates", "examples"), _beside(before["by_mechanism"], after["by_mechanism"])),
        markdown_table(("position", "candidates", "examples"), _beside(before["by_position"], after["by_position"])),
        f"![Examples by mechanism and position]({REPORT_CHART})",
        "## Dropped",
        markdown_table(("why", "count"), content["dropped"].items()),
    ]
    checks = content["check_by_rationales"]
    if checks:
        rows = [(mechanism, case, count) for mechanism, cases in checks.items() for case, count in cases.items()]
        parts += ["## Score and rationale of a sentence", markdown_table(("mechanism", "case", "sentences"), rows)]
    parts += [f"## {len(report.samples)} random examples", *map(_shown, report.samples)]
    return "\n\n".join(parts) + "\n"


def _beside(before: Mapping[str, int], after: Mapping[str, int]) -> list[tuple[str, int, int]]:
    return [(name, count, after.get(name, 0)) for name, count in before.items()]


def _shown(sample: Sample) -> str:
    title = sample.position + (f", {sample.mechanism}, level {sample.level:.2f}" if sample.mechanism else "")
    kind, _, index = sample.position.partition(" ")
    lines = [f"seeker    {_cut(sample.seeker_post)}"]
    for number, sentence in enumerate((*sample.span, "")):
        here = str(number) == index
        if here and kind == PositionKind.INSERT:
            lines.append(f"     +    {_cut(sample.sentence)}")
        if number < len(sample.span):
            lines.append(f"     {'-' if here and kind == PositionKind.REPLACE else ' '}    {_cut(sentence)}")
        if here and kind == PositionKind.REPLACE:
            lines.append(f"     +    {_cut(sample.sentence)}")
    return "\n".join([f"**{title}**", "", "```text", *lines, "```"])


def _cut(post: str) -> str:
    line = " ".join(post.replace("```", "'''").split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]} …"


def _draw(report: PairsReport, path: Path) -> None:
    """Bars by position, the mechanisms stacked: candidates on the left, examples on the right."""
    window = int(report.settings["window"])
    positions = sorted({cell.position for cell in report.before})
    figure = new_canvas(10.0, 4.0)
    for axes, title, cells in zip(
        figure.subplots(1, 2), ("Candidates", "Examples"), (report.before, report.after), strict=True
    ):
        base = [0] * len(positions)
        for mechanism in (*MECHANISMS, ""):
            heights = [
                sum(n for cell, n in cells.items() if (cell.mechanism, cell.position) == (mechanism, position))
                for position in positions
            ]
            axes.bar(range(len(positions)), heights, bottom=base, label=mechanism.replace("_", " ") or "leave alone")
            base = [low + height for low, height in zip(base, heights, strict=True)]
        axes.set_xticks(range(len(positions)), [position_name(p, window) for p in positions], rotation=60, fontsize=7)
        axes.set_title(title)
        axes.set_ylabel("count")
        axes.grid(visible=True, axis="y", alpha=0.3)
        axes.legend(fontsize="x-small")
    save_png(figure, path)
