"""Ratios against named references, each from one run on one machine: `python -m benchmarks`, or `python -m benchmarks loop`.

    loop        our training loop against the shortest hand-written one
    start       from `lab train` to the first training step, against a bare script
    recording   what journal, figures and MLflow cost a training
    click       from the Prefect UI's Run button to the first training step
    threads     one thread, several, and several that sleep while they wait, alone and beside a busy process
    recurrent   training an LSTM against a hand-written loop, and its explicit form against the fused

Measured results are in README.md beside this file.
"""
