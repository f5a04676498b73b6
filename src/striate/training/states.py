"""Names of the resume checkpoints."""

from pathlib import Path

STATES = Path(".dvc/tmp/striate")  # of trainings that can go on, in the main repository


DONE = ".done"  # beside the state of a training whose outputs are written: the hash of its models
