"""What a run leaves on the disk, and what can be read out of it."""
