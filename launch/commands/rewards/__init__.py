"""`partner-rl rewards`: the reward models."""
