"""Real data: where it comes from, how it is prepared once, and how it is served."""
