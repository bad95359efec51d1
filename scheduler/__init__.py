"""The scheduler: which shard runs on which unit, and when."""
