"""`partner-rl sweep`: many runs over any configuration key by Ray Tune, and a report with the Pareto front."""
