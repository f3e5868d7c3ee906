"""What a command asks before it computes or writes anything: are its inputs there, and is there room for its actors?"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from launch.console import progress
from launch.preflight.check_request import DATA, CheckRequest, used_inputs
from launch.preflight.corpus import first_rows
from launch.preflight.environment import require_environment
from launch.preflight.inputs import ModelFact, input_fact
from partner_rl.config.schema import RunConfig
from partner_rl.models.sources import resolve
from partner_rl.storage.full_disk import can_be_written
from partner_rl.types import PartnerError


def require_inputs(config: RunConfig, request: CheckRequest) -> None:
    """Refuses, before anything is computed or written, a command that an input would fail; fetches absent models.

    Raises:
        PartnerError: An input is absent, damaged or of another kind; a model cannot be fetched; there is no such
            device; or run folders cannot be written.
    """
    from launch.resources.device import device_of

    device_of(config)
    folder = request.output or Path(config.runs_dir)
    if request.is_run and not can_be_written(folder):
        raise PartnerError(f"{folder} cannot be written to: name a folder of yours (runs_dir)")
    for named in used_inputs(config, request):
        fact = input_fact(named, config)
        if fact.state == "absent" and not fact.problem:
            with progress(named.name) as report:
                resolve(named.name, config.models.cache, report)
            fact = input_fact(named, config)
        require_files([fact])
    require_files(request.files)
    if request.reads_data:
        corpus = first_rows(config, needs_labels=request.needs_labels)
        if corpus.problem:
            raise PartnerError(f"{DATA}: {corpus.problem}")


def require_files(facts: Iterable[ModelFact]) -> None:
    """Refuses, before anything is computed or written, a command that an input which an option names would fail.

    Raises:
        PartnerError: One is absent, damaged or of another kind.
    """
    for fact in facts:
        if fact.problem:
            raise PartnerError(f"{fact.key}: {fact.problem}")


def check_capacity(config: RunConfig, *, scores_all: bool = True) -> None:
    """Refuses, before anything is computed or written, a run that this machine or the cluster has no room for.

    Nor may the user's folders and variables be in its way.

    Raises:
        PartnerError: There is no room, or the cluster cannot be reached.
    """
    from launch.resources.session import place_on_this_machine, ray_session

    require_environment(config)
    config, plan = place_on_this_machine(config, scores_all=scores_all)
    if config.resources.address is not None:
        with ray_session(config, plan):
            pass
