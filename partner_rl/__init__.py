"""PARTNER: reinforcement learning that rewrites peer-support responses so that they carry more empathy."""
