"""Where resume checkpoints live."""

from pathlib import Path

RESUME_DIR = Path(".dvc/tmp/striate")  # in the main repository, also for its temporary copies
DONE = ".done"  # beside the checkpoint of a training whose outputs are written: their hash
