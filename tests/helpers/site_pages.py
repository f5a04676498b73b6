"""The pages of the docs site, in the order of its navigation."""

import re
import subprocess
import sys

import yaml
from paths import ROOT


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, in which `!ENV` names variables."""


Loader.add_constructor("!ENV", lambda loader, node: loader.construct_sequence(node)[-1])
# Pages of the site that lie elsewhere: `docs/site_hooks.py` takes them from there.
OUTSIDE = {"index.md": "README.md", "deploy.md": "deploy/README.md"}


def _named(entry):
    if isinstance(entry, str):
        return [entry]
    entries = entry if isinstance(entry, list) else entry.values()
    return [name for inner in entries for name in _named(inner)]


NAMES = _named(yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)["nav"])
PAGES = {name: ROOT / OUTSIDE.get(name, f"docs/{name}") for name in NAMES}


def build(folder, root=ROOT):
    """Build the site of the repository at `root` in a folder; what mkdocs answers."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip


def commands(text):
    """The commands of a page: the lines that begin with `$` in its blocks of a console."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line[2:] for line in lines if line.startswith("$ ")]
