"""Training of the two small classifiers behind the rewards for empathy and coherence."""
