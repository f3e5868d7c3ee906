"""Commands, tracking, placement: everything that a user starts. Ray clusters and W&B are met here."""
