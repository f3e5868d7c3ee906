"""Before a run starts: facts about machine, cluster, models and data, and checks of the plan on them."""
