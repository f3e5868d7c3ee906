"""A small sweep for tests."""

from __future__ import annotations

from typing import Any

from launch.sweep.spec import SweepSpec, checked_spec

EMPATHY, LAMBDA = "rewards.empathy.weight", "rewards.mutual_information.lambda_mi"


def spec_of(**values: Any) -> SweepSpec:
    space = {EMPATHY: {"grid": [0.5, 1.0]}, LAMBDA: {"grid": [0.2, 0.8]}}
    return checked_spec({"base": "smoke", "search": "grid", "space": space, **values}, "test")
