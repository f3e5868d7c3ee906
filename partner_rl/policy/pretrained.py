"""Loading, checking and saving a policy's folder."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from partner_rl.config.schema import PolicyConfig
from partner_rl.models.adapters import merge_adapters, with_adapters
from partner_rl.models.loading import load_causal_lm, load_tokenizer, open_causal_lm, save_model
from partner_rl.policy.attention import use_grouped_attention
from partner_rl.policy.load_checks import check_reach, check_ways
from partner_rl.policy.model import Policy
from partner_rl.policy.position_rows import add_position_rows, merge_position_rows
from partner_rl.policy.precision import use_float32_head
from partner_rl.policy.small_batch_linear import use_small_batch_linear
from partner_rl.policy.tied_embedding import share_gradient_with_head
from partner_rl.policy.vocabulary import add_position_tokens
from partner_rl.storage.artefact import MARK, write_mark
from partner_rl.types import PartnerError

KIND = "policy"
"""What an exported policy says that it is."""


def load_policy(folder: str | Path, settings: PolicyConfig, window: int, device: str = "cpu") -> Policy:
    """Loads a plain language model or an exported policy, with dropout 0 and float32 weights.

    With `settings.lora`, fresh adapters are added and all else is frozen.

    Raises:
        PartnerError: The folder is no causal language model, was exported with another window, attends to fewer tokens
            than the settings need, or is computed differently when prompts are shared or adapters are off.
    """
    folder = Path(folder)
    tokenizer = load_tokenizer(folder)
    model: Any = load_causal_lm(folder)
    use_grouped_attention(model)
    use_small_batch_linear(model)
    use_float32_head(model)
    vocabulary = add_position_tokens(tokenizer, model, window)
    check_reach(tokenizer, model.config, settings, window)
    if settings.lora is not None:
        model = with_adapters(model, settings.lora)
        add_position_rows(model.get_base_model(), vocabulary)
    else:
        share_gradient_with_head(model)
    policy = Policy(model.to(device).eval(), tokenizer, vocabulary, settings)
    check_ways(policy)
    return policy


def check_policy(folder: str | Path, settings: PolicyConfig, window: int) -> None:
    """Checks that `load_policy` would load the folder, without reading a weight.

    Whether the ways in which the policy is computed agree is found out when it is loaded.

    Raises:
        PartnerError: As `load_policy`.
    """
    folder = Path(folder)
    tokenizer = load_tokenizer(folder)
    model = open_causal_lm(folder)
    add_position_tokens(tokenizer, model, window)
    check_reach(tokenizer, model.config, settings, window)


def save_policy(policy: Policy, folder: str | Path) -> None:
    """Writes a folder that `AutoModelForCausalLM.from_pretrained` loads, adapters merged into the weights.

    The folder also holds the tokenizer and `partner_rl.json` with the window and the policy settings.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = policy.model
    if policy.settings.lora is not None:
        # Merging in place and undoing it would change the weights by rounding, so a copy is merged.
        model = merge_adapters(copy.deepcopy(model))
        merge_position_rows(model)
    save_model(model, policy.tokenizer, folder)
    write_mark(folder, KIND, window=policy.vocabulary.window, policy=policy.settings.model_dump(mode="json"))


def read_metadata(folder: str | Path) -> tuple[int, PolicyConfig]:
    """The window and the policy settings of an exported policy.

    Raises:
        PartnerError: The folder holds no exported policy.
    """
    path = Path(folder) / MARK
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return int(content["window"]), PolicyConfig.model_validate(content["policy"])
    except (OSError, ValueError, KeyError) as error:
        raise PartnerError(f"{folder} is no exported policy ({MARK}: {error}): give a run or its export/") from error
