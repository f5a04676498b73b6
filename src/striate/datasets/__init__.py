"""The data sets: which there are, and how each is fetched, verified and read.

Importing the package fills `registry.DATASETS`: every module here registers what it defines. The
modules are imported by each command, so they import NumPy, torchvision and the like in functions.
"""

import pkgutil
from importlib import import_module

# They register nothing, and take long to load.
HELPERS = {
    "fetch", "image_folder", "image_reading", "layouts", "parallel_reading", "survey",
}  # fmt: skip

for module in pkgutil.iter_modules(__path__):
    if module.name not in HELPERS:
        import_module(f"{__name__}.{module.name}")
