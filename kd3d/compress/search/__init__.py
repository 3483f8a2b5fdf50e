"""Students within a budget: what a detector costs, which ones there are, and in which order to try them."""
