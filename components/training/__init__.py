"""The training loop and what makes it exact: checkpoints, generators, devices, diagnostics."""
