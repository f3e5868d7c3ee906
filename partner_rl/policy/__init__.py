"""The policy: prompt and action tokens, sampling with a shared prompt, and the log-probabilities that are trained."""
