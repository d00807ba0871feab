"""What runs on the node: one job, from its lease to its end."""
