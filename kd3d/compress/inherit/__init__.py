"""Teacher weights for a student of another width, depth, resolution or task grouping: a plan and its use."""
