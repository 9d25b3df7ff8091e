"""Sweeps: a space of configurations, searched by Optuna, trial by trial, and what comes out of it."""
