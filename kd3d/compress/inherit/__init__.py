"""Teacher weights for a student of another width, depth, resolution or task grouping: a plan, and what carries it out."""
