"""The RL algorithm on RLlib's new API stack: the only package that knows RLlib's algorithms."""
