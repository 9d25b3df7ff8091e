"""Small pure functions from numbers to matplotlib figures."""
