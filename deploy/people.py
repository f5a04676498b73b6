"""Who may do what in a team's MLflow, with its own authentication (`--app-name basic-auth`).

    PASSWORD=... python deploy/people.py NAME ROLE

`MLFLOW_TRACKING_URI`, `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD` are those of the
administrator. Called again with another role, it gives that one too.
"""

import argparse
import getpass
import json
import os
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from typing import Any

EXPERIMENT = "striate"  # that of `striate.tracking.mlflow_store`
WORKSPACE = "default"
# What a role may do, beside logging in. Whoever has none sees nothing. A run may be deleted by
# whoever may write one, because `striate sync` removes a second run of an experiment.
ROLES = {
    "writer": [
        ("workspace", "USE"),
        ("experiment", "EDIT"),
        ("run", "MANAGE"),
        ("registered_model", "EDIT"),
    ],
    "reader": [("experiment", "READ"), ("registered_model", "READ")],
}

Ask = Callable[..., Any]


class RefusedError(Exception):
    """MLflow does not do what it was asked for; the message says what and why."""


def administrator(address: str, name: str, password: str) -> Ask:
    """A function that posts values to a path of MLflow's interface, or gets it without values.

    A thing that is there already is no fault, and its answer None.
    """
    login = b64encode(f"{name}:{password}".encode()).decode()

    def ask(path: str, **values: Any) -> Any:
        request = urllib.request.Request(
            f"{address.rstrip('/')}/api/{path}",
            json.dumps(values).encode() if values else None,
            {"Authorization": f"Basic {login}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            reason = error.read().decode(errors="replace")
            if "RESOURCE_ALREADY_EXISTS" in reason:
                return None
            said = " ".join(reason.split())[:300]
            raise RefusedError(f"MLflow refuses {path} ({error.code}): {said}") from None
        except OSError as error:
            raise RefusedError(f"MLflow at {address} cannot be reached: {error}") from None

    return ask


def prepare(ask: Ask) -> dict[str, int]:
    """Make the experiment and the roles where they are missing; returns the roles' numbers."""
    ask("2.0/mlflow/experiments/create", name=EXPERIMENT)
    listed = ask(f"3.0/mlflow/roles/list?workspace={WORKSPACE}")["roles"]
    numbers: dict[str, int] = {role["name"]: role["id"] for role in listed}
    for name, grants in ROLES.items():
        if name in numbers:
            continue
        numbers[name] = ask("3.0/mlflow/roles/create", workspace=WORKSPACE, name=name)["role"]["id"]
        for kind, permission in grants:
            ask(
                "3.0/mlflow/roles/permissions/add", role_id=numbers[name], resource_type=kind,
                resource_pattern="*", permission=permission,
            )  # fmt: skip
    return numbers


def add(ask: Ask, name: str, password: str, role: str) -> None:
    """Give a person a role; create the person where there is none of this name."""
    number = prepare(ask)[role]
    ask("2.0/mlflow/users/create", username=name, password=password)
    ask("3.0/mlflow/roles/assign", username=name, role_id=number)


def main() -> None:
    """Add one person."""
    parser = argparse.ArgumentParser(description="Add a person to a team's MLflow.")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("role", metavar="ROLE", choices=sorted(ROLES), help=", ".join(ROLES))
    arguments = parser.parse_args()
    try:
        ask = administrator(
            *(os.environ[f"MLFLOW_TRACKING_{part}"] for part in ("URI", "USERNAME", "PASSWORD"))
        )
        password = os.environ.get("PASSWORD") or getpass.getpass(f"password for {arguments.name}: ")
        add(ask, arguments.name, password, arguments.role)
    except KeyError as missing:
        sys.exit(f"error: {missing.args[0]} is not set; it is the administrator's")
    except RefusedError as error:
        sys.exit(f"error: {error}")
    print(f"{arguments.name} is a {arguments.role}")


if __name__ == "__main__":
    main()
