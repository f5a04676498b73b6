"""Striate: a reproducible pipeline for convolutional image classifiers."""

import gc
import sys

# A process lives for seconds and loads packages of thousands of modules. It compiles them once,
# also where the environment forbids that to a container's image; without this, each start of a
# stage costs up to half a minute.
sys.dont_write_bytecode = False
# Most of what loading makes stays, and looking for garbage in it takes a third of the time.
gc.set_threshold(20_000, 50, 1_000)
