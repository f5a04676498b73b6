# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From the notebook's network to a better one
#
# The task: change a small convolutional network, or how it is trained, until it classifies
# handwritten digits better, and show that it does. Each number below comes from a DVC experiment,
# which anybody can repeat; the same commands work in a terminal.
#
# Choose the kernel of this repository's environment, `.venv`. All cells together take a few
# minutes on two cores. [How to get Jupyter](../docs/notebook.md)

# %%
import os
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image

import striate

# Commands run at the root of the repository, and DVC's stages with the Python of this kernel.
here = Path.cwd()
os.chdir(next(folder for folder in (here, *here.parents) if (folder / "dvc.yaml").exists()))
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
# %config InlineBackend.figure_format = "retina"

# %% [markdown]
# ## The images
#
# 1,437 training and 360 test images of 8×8 pixels. They come with scikit-learn, so nothing is
# downloaded. `striate.load("mnist")` and `striate.load("cifar10")` have the same fields.

# %%
digits = striate.load("digits")
striate.show(digits.train_images[:36], digits.train_labels[:36])

# %% [markdown]
# ## The notebook's network
#
# Two layers of convolution, batch norm, ReLU and max-pooling, then a linear layer; Adam at a
# learning rate of 0.001, batches of 100, five epochs. `params.yaml` says so. DVC runs what is out
# of date: it stores the images, trains, scores the test images once, and draws the report.

# %%
# !dvc repro 2>&1 | cat

# %%
Image("reports/figures/curves.png", width=700)

# %% [markdown]
# The validation loss still falls after five epochs. Test images that the network has wrong, each
# with what it said and what is true:

# %%
said = np.load("predictions/logits.npy").argmax(axis=1)
wrong = said != digits.test_labels
striate.show(digits.test_images[wrong], digits.test_labels[wrong], said[wrong])

# %% [markdown]
# ## Three ideas
#
# One param each: a third layer, training images shifted by up to a pixel, more epochs. `--temp`
# runs an experiment in a copy, so the workspace keeps the first network. An experiment keeps its
# name: a second run of this cell says that it exists, and changes nothing.

# %%
# !dvc exp run --quiet --temp --name deeper -S model.layers=3 2>&1 | tail -n 3
# !dvc exp run --quiet --temp --name shifted -S augment.translate=1 2>&1 | tail -n 3
# !dvc exp run --quiet --temp --name longer -S training.epochs=20 2>&1 | tail -n 3

# %%
ideas = striate.runs()
changed = ["model.layers", "augment.translate", "training.epochs"]
ideas[[*changed, "val_accuracy", "val_loss", "parameters"]]

# %% [markdown]
# Choose by the validation set: the highest of several test accuracies is partly luck. `deeper` and
# `longer` are level in accuracy; `longer` has the lower loss, and a quarter of the parameters.
#
# ## Better, or lucky?
#
# One seed is one draw. Train both settings with five seeds, and compare them over seeds.

# %%
# !striate repeat main --seeds 5
# !striate repeat longer --seeds 5

# %%
# !striate compare main longer

# %%
table = striate.runs()
_, axes = plt.subplots(figsize=(7, 1.8))
for row, name in enumerate(["longer", "main"]):
    scores = 100 * table.loc[table["setting"] == name, "test_accuracy"]
    axes.scatter(scores, [row] * len(scores), s=60, alpha=0.35)
    axes.errorbar(scores.mean(), row, xerr=scores.std(), fmt="|", color="black", capsize=5)
axes.set(yticks=[0, 1], yticklabels=["longer", "main"], ylim=(-0.6, 1.6))
axes.set_xlabel("test accuracy (%) of each seed, and mean ± standard deviation")
axes.spines[["top", "right", "left"]].set_visible(False)

# %% [markdown]
# ## Your turn
#
# Find a setting that beats `longer`. [docs/params.md](../docs/params.md) lists what can be set:
# width, dropout, the optimizer and its schedule, other networks. `striate tune` searches by
# itself, and `make ui` opens all runs in MLflow.
