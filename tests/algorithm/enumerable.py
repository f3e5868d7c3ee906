"""A policy so small that every action can be listed: position, then up to two tokens of a vocabulary of three.

Position 0 leaves the text alone, without tokens; position 1 writes. Token 0 ends the sentence. The eight actions are
therefore (0), (1, 0), (1, 1, x) and (1, 2, x), of one to three decisions: padding and masks are exercised, too.
"""

import torch

POSITION = 2
VOCABULARY = 3
ACTIONS = ((0,), (1, 0), *((1, first, second) for first in (1, 2) for second in range(VOCABULARY)))
MASK_NT = torch.tensor([[step < len(action) for step in range(3)] for action in ACTIONS])
REWARDS_N = torch.tensor([0.3, -0.5, 1.0, 2.0, -1.0, 0.2, 0.7, -2.0], dtype=torch.float64)


def parameters(seed: int = 0) -> torch.Tensor:
    """Logits: row 0 of the position (2 are used), row 1 of the first token, rows 2 and 3 of the one after 1 and 2."""
    return torch.randn(4, VOCABULARY, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logprobs(logits: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of every action's decisions, shape `[8, 3]`; 0 on padding."""
    position, tokens = logits[0, :POSITION].log_softmax(-1), logits[1:].log_softmax(-1)
    rows = []
    for action in ACTIONS:
        values = [position[action[0]]]
        if len(action) > 1:
            values.append(tokens[0, action[1]])
        if len(action) > 2:
            values.append(tokens[action[1], action[2]])
        rows.append(torch.stack([*values, *[logits.new_zeros(())] * (3 - len(values))]))
    return torch.stack(rows)


def exact_gradient(logits: torch.Tensor, rewards_N: torch.Tensor = REWARDS_N) -> torch.Tensor:
    """The gradient of the expected reward, by enumeration."""
    parameter = logits.clone().requires_grad_()
    (logprobs(parameter).sum(1).exp() * rewards_N).sum().backward()
    return parameter.grad


def draw(logits: torch.Tensor, groups: int, samples: int, generator: torch.Generator) -> torch.Tensor:
    """Indices of sampled actions, shape `[groups, samples]`."""
    probabilities = logprobs(logits).sum(1).exp()
    return torch.multinomial(probabilities, groups * samples, replacement=True, generator=generator).view(groups, -1)


def greedy(logits: torch.Tensor) -> int:
    """Index of the action that takes the likeliest decision at each step."""
    position, tokens = logits[0, :POSITION], logits[1:]
    action = [int(position.argmax())]
    if action[0]:
        action.append(int(tokens[0].argmax()))
        if action[1]:
            action.append(int(tokens[action[1]].argmax()))
    return ACTIONS.index(tuple(action))


def divergences(logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """KL of each decision's whole distribution from the reference's, for every action, shape `[8, 3]`; 0 on padding."""

    def kl(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        return (ours.softmax(-1) * (ours.log_softmax(-1) - theirs.log_softmax(-1))).sum(-1)

    position, tokens = kl(logits[0, :POSITION], reference[0, :POSITION]), kl(logits[1:], reference[1:])
    rows = []
    for action in ACTIONS:
        values = [position]
        if len(action) > 1:
            values.append(tokens[0])
        if len(action) > 2:
            values.append(tokens[action[1]])
        rows.append(torch.stack([*values, *[logits.new_zeros(())] * (3 - len(values))]))
    return torch.stack(rows)
