"""Kinds of problems: their losses, per-example outcomes, metrics and figures."""
