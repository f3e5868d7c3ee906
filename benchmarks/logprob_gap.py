"""How far log-probabilities at training are from those at sampling, by model and type: rounding, and nothing else.

    python -m benchmarks.logprob_gap                                     # the embedded model, on this machine's device
    python -m benchmarks.logprob_gap --models 135m,345m,1.7b --dtypes bfloat16 --device cuda

The sizes are models of real shape with random weights, which need no download; `345m` is DialoGPT-medium's shape. Their
logits are scaled to the spread of a trained model's, and `--shift` moves all of them down, as GPT-2's lie near −110.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer

from benchmarks.command import aligned_table, run_command
from launch.console import out
from partner_rl.algorithm.losses import rounding_weights
from partner_rl.algorithm.update_metrics import GAP_LIMITS, LogprobGap
from partner_rl.config.schema import PolicyConfig
from partner_rl.config.section import LoraSection
from partner_rl.models.sources import resolve
from partner_rl.policy.generate import Sampling, sample_actions
from partner_rl.policy.logprobs import PromptGroup, action_logprobs, pack_groups
from partner_rl.policy.model import Policy
from partner_rl.policy.pretrained import load_policy
from partner_rl.policy.prompt import encode_prompt
from partner_rl.types import PartnerError, RewriteState

WINDOW: Final = 4
LOGIT_SPREAD: Final = 3.0
"""Standard deviation of a random model's logits, about that of a trained one."""
SHAPES: Final[dict[str, tuple[str, dict[str, int]]]] = {
    "135m": (
        "llama",
        {
            "hidden_size": 576,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "intermediate_size": 1536,
            "vocab_size": 49152,
        },
    ),
    "345m": ("gpt2", {"n_embd": 1024, "n_layer": 24, "n_head": 16, "vocab_size": 50257}),
    "1.7b": (
        "llama",
        {
            "hidden_size": 2048,
            "num_hidden_layers": 24,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "intermediate_size": 8192,
            "vocab_size": 49152,
        },
    ),
}
POSTS: Final = (
    (
        "My exam is tomorrow and I cannot sleep at all, and nobody at home takes it seriously.",
        ("Try some tea.", "You could read for a while."),
    ),
    (
        "They let eleven of us go this morning. Twelve years, and a box for my things.",
        ("Check your contract before you sign.",),
    ),
    (
        "Since the move I have not talked to anybody but the cashier.",
        ("Join a club.", "People are nice there.", "It takes time."),
    ),
    (
        "My dog was old, I know, but the flat is so quiet now.",
        ("You can get another one.", "Shelters are full of them."),
    ),
)


def main(
    models: Annotated[
        str, typer.Option(help="Sources or sizes (135m, 345m, 1.7b), by commas.")
    ] = "pypi:smollm2-135m-instruct",
    dtypes: Annotated[str, typer.Option(help="float32, bfloat16, or both, by commas.")] = "float32,bfloat16",
    device: Annotated[str, typer.Option(help="Torch device.")] = "cuda" if torch.cuda.is_available() else "cpu",
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 1.0,
    shift: Annotated[float, typer.Option(help="Moves all logits down by this much.")] = 0.0,
    samples: Annotated[int, typer.Option(help="Samples of each of four states.")] = 32,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Sampling against training: mean, 99th percentile and maximum of the gap, and importance weights cut off."""
    rows = []
    for source in models.split(","):
        for dtype in dtypes.split(","):
            if dtype not in GAP_LIMITS:
                raise PartnerError(f"--dtypes {dtype}: give {' or '.join(GAP_LIMITS)}")
            rows.append(measure(source, dtype, device, temperature, shift, samples))
            out.print(f"{source} {dtype}: {rows[-1]}", soft_wrap=True)
    columns = list(rows[0])
    out.print(aligned_table(columns, [[str(row[column]) for column in columns] for row in rows]))
    if json_file is not None:
        json_file.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def measure(source: str, dtype: str, device: str, temperature: float, shift: float, samples: int) -> dict[str, Any]:
    """The gap of one model in one type."""
    policy = _policy(source, dtype, device)
    states = [RewriteState(post, span) for post, span in POSTS]
    _shift_logits(policy, shift)
    generator = torch.Generator(device).manual_seed(0)
    drawn = sample_actions(policy, states, samples, Sampling(temperature), generator)
    groups = [
        PromptGroup(tuple(encode_prompt(policy.tokenizer, s, policy.settings)), len(s.span), tuple(x.action for x in g))
        for s, g in zip(states, drawn, strict=True)
    ]
    gaps, cut_off, tokens = [], 0, 0
    for group, sampled in zip(groups, drawn, strict=True):
        packed = pack_groups([group], policy.vocabulary, policy.pad_id).to(device)
        with policy.autocast():
            found = action_logprobs(policy.model, packed, policy.vocabulary, temperature)
        sampled_GKT = torch.zeros_like(found.logprobs_GKT)
        for k, sample in enumerate(sampled):
            sampled_GKT[0, k, : len(sample.logprobs)] = torch.tensor(sample.logprobs)
        gaps.append((found.logprobs_GKT - sampled_GKT)[found.mask_GKT])
        cut_off += int(rounding_weights(found.logprobs_GKT, sampled_GKT, found.mask_GKT)[1])
        tokens += len(gaps[-1])
    gap = LogprobGap.of(gaps)
    return {
        "model": source,
        "dtype": dtype,
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "shift": shift,
        "tokens": tokens,
        "mean log-prob": round(torch.cat([torch.tensor(s.logprobs) for g in drawn for s in g]).mean().item(), 2),
        "gap mean": f"{gap.mean:.2g}",
        "p99": f"{gap.p99:.2g}",
        "max": f"{gap.largest:.2g}",
        "weights cut off": f"{cut_off / tokens:.3%}",
        "within limits": GAP_LIMITS[dtype].hold(gap),
    }


def _policy(source: str, dtype: str, device: str) -> Policy:
    lora = LoraSection(rank=16) if source == "1.7b" else None
    settings = PolicyConfig(dtype=dtype, lora=lora, max_new_tokens=24)  # type: ignore[arg-type]
    if source not in SHAPES:
        return load_policy(resolve(source, None), settings, WINDOW, device)
    with tempfile.TemporaryDirectory() as folder:
        _write_random(source, Path(folder))
        return load_policy(folder, settings, WINDOW, device)


def _write_random(shape: str, folder: Path) -> None:
    """A model of a real shape whose logits spread like a trained one's, with a tokenizer of as many words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    family, sizes = SHAPES[shape]
    words = [
        word
        for post, span in POSTS
        for word in _words(" ".join([post, *span, "Post Reply Kinder add before replace nothing 1 2 3 4 5"]))
    ]
    names = dict.fromkeys(["</s>", "?", *words])
    vocabulary = {
        name: i for i, name in enumerate([*names, *(f"w{i}" for i in range(sizes["vocab_size"] - len(names)))])
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="?").save_pretrained(folder)
    torch.manual_seed(0)
    model: Any = (
        GPT2LMHeadModel(GPT2Config(**sizes))
        if family == "gpt2"
        else LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True))
    )
    norm = model.transformer.ln_f if family == "gpt2" else model.model.norm
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        norm.weight.fill_(LOGIT_SPREAD / (head.std() * head.shape[1] ** 0.5))
    model.save_pretrained(folder)


def _words(text: str) -> Iterator[str]:
    from tokenizers import pre_tokenizers

    return (word for word, _ in pre_tokenizers.Whitespace().pre_tokenize_str(text))


def _shift_logits(policy: Policy, shift: float) -> None:
    if shift:
        head = policy.model.get_output_embeddings()
        # Rounded to the head's own type, as if the head had computed them.
        head.register_forward_hook(lambda module, inputs, logits: (logits.float() - shift).to(logits.dtype))


if __name__ == "__main__":
    run_command(main, "python -m benchmarks.logprob_gap")
