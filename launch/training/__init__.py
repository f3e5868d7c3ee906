"""One run from its corpus to its export and evaluation: the phases, the loop of RL, and what watches over it."""
