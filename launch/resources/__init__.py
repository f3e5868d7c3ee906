"""What processes need and where they get it: plan, placement, memory, and the session of Ray."""
