"""Commands, tracking, placement: everything that a user starts. Ray clusters and W&B are met here."""

from launch.search_path import put_our_packages_first

# Before anything else of ours is imported.
put_our_packages_first()
