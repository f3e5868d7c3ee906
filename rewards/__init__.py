"""The rewards: four scorers, how their scores are mixed, and the pools of Ray actors that run them."""
