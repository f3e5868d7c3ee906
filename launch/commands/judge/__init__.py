"""`partner-rl judge`: the held-out judge of empathy."""
