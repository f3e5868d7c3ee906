"""Commands as jobs of a Ray cluster: what they take along, how their keys reach them, how they are followed."""
