"""Write deploy/.env, which only its owner can read: a random password for each that is wanted.

`deploy/compose.yaml` says which are. What stands there already stays.
"""

import os
import re
import secrets
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Add what is missing."""
    path = HERE / ".env"
    there = path.read_text() if path.exists() else ""
    wanted = dict.fromkeys(re.findall(r"\$\{(\w+):\?\}", (HERE / "compose.yaml").read_text()))
    missing = [name for name in wanted if not re.search(rf"^{name}=", there, re.M)]
    lines = "".join(f"{name}={secrets.token_urlsafe(24)}\n" for name in missing)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w") as file:
        file.write(lines)
    print(f"{path}: {len(missing)} passwords added")


if __name__ == "__main__":
    main()
