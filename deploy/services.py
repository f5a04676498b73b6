"""A team's three services on this machine: PostgreSQL, an S3 server, and MLflow in front of both.

    python deploy/services.py FOLDER

They listen on the loopback address only and end with this program. It is what the tests, the
benchmark and a person who wants to try them use; `deploy/compose.yaml` is for keeps, because the
S3 server here, moto's, holds its files in memory.

What each person needs is written to FOLDER/admin.env, writer.env and reader.env, which only their
owner can read: `set -a; . FOLDER/writer.env`.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import people as people_of_mlflow

HOST = "127.0.0.1"
DVC, MLFLOW = "striate-dvc", "striate-mlflow"  # buckets
DATABASE = "mlflow"  # and the role that owns it
PEOPLE = ("admin", "writer", "reader")
START_SECONDS = 120.0  # for a service to answer
STOP_SECONDS = 15.0
REGION = "us-east-1"

READING = ["s3:GetObject", "s3:ListBucket", "s3:GetBucketLocation"]
WRITING = [*READING, "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
# Who may do what in which bucket. Artifacts pass through MLflow, which asks who it is.
BUCKET_RIGHTS = {
    "admin": (["s3:*"], "*"),
    "writer": (WRITING, DVC),
    "reader": (READING, DVC),
    "mlflow": (WRITING, MLFLOW),
}


class ServiceError(Exception):
    """A service cannot be started; the message says which and why."""


@dataclass
class Person:
    """Who may use the services, and by what."""

    name: str
    password: str
    key: str = ""  # of S3
    secret: str = ""

    def environment(self, tracking: str, storage: str) -> dict[str, str]:
        """What is to be set for MLflow and DVC."""
        return {
            "MLFLOW_TRACKING_URI": tracking,
            "MLFLOW_TRACKING_USERNAME": self.name,
            "MLFLOW_TRACKING_PASSWORD": self.password,
            "AWS_ENDPOINT_URL": storage,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": REGION,
        }


@dataclass
class Services:
    """The running services.

    Attributes:
        folder: where the database, the logs and the people's files lie.
        tracking: the address of MLflow.
        storage: the address of the S3 server.
        database: the address of the database, with its password.
        people: by name.
    """

    folder: Path
    tracking: str
    storage: str
    database: str
    people: dict[str, Person]
    _mlflow: Process = field(repr=False)

    def environment(self, name: str) -> dict[str, str]:
        """What the person of this name is to set."""
        return self.people[name].environment(self.tracking, self.storage)

    def kill_mlflow(self) -> None:
        """End MLflow's server as `kill -9` does, with all that it started."""
        self._mlflow.end(signal.SIGKILL)

    def start_mlflow(self) -> None:
        """Start MLflow's server again where it was."""
        self._mlflow.start()


@dataclass
class Process:
    """A service of its own process group, which can be started again."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    answers: Callable[[], bool]
    user: str | None = None
    stopped_by: signal.Signals = signal.SIGTERM
    _running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            ServiceError: it ends, or does not answer.
        """
        with self.log.open("ab") as said:
            self._running = subprocess.Popen(
                self.command, env=self.environment, stdin=subprocess.DEVNULL, stdout=said,
                stderr=said, start_new_session=True, user=self.user, group=self.user,
                cwd=self.log.parent,
            )  # fmt: skip
        end = time.monotonic() + START_SECONDS
        while not self.answers():
            if self._running.poll() is not None or time.monotonic() > end:
                self.end(signal.SIGKILL)
                lines = self.log.read_text(errors="replace").strip().splitlines()
                raise ServiceError(
                    f"{self.name} does not start: {''.join(lines[-1:])} (see {self.log})"
                )
            time.sleep(0.1)

    def end(self, number: signal.Signals | None = None) -> None:
        """End it and whatever it started."""
        if self._running is None:
            return
        # Asked first, so that it can close what is open; then whatever is left in its group.
        for by in (number or self.stopped_by, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._running.pid, by)
            with suppress(subprocess.TimeoutExpired):
                self._running.wait(STOP_SECONDS)
        self._running = None


@contextmanager
def services(
    folder: Path, passwords: dict[str, str] | None = None, ports: dict[str, int] | None = None
) -> Iterator[Services]:
    """Start all three, and end them.

    Args:
        folder: a new or an empty folder, which stays with the database and the logs.
        passwords: of people, by name; random ones otherwise.
        ports: of `mlflow`, `s3` and `postgresql`; free ones otherwise.

    Raises:
        ServiceError: one cannot be started; the message says why.
    """
    folder = folder.resolve()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ServiceError(f"{folder} is no empty folder; name a new one")
    port = {name: free_port() for name in ("mlflow", "s3", "postgresql")} | (ports or {})
    for name, number in port.items():
        if not 0 < number < 2**16:
            raise ServiceError(f"--{name}-port is {number}; it must be from 1 to 65535")
        if not is_free(number):
            raise ServiceError(f"port {number} is in use; name another: --{name}-port")
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    people = {
        name: Person(name, (passwords or {}).get(name) or secrets.token_urlsafe(24))
        for name in (*PEOPLE, "mlflow")
    }
    with ExitStack() as stack:
        database = _start_postgresql(folder, port["postgresql"], stack)
        storage = _start_s3(folder, port["s3"], people, stack)
        mlflow = _start_mlflow(folder, port["mlflow"], database, storage, people, stack)
        running = Services(
            folder, f"http://{HOST}:{port['mlflow']}", storage, database,
            {name: people[name] for name in PEOPLE}, mlflow,
        )  # fmt: skip
        ask = people_of_mlflow.administrator(
            running.tracking, "admin", running.people["admin"].password
        )
        for name in people_of_mlflow.ROLES:
            people_of_mlflow.add(ask, name, running.people[name].password, name)
        for name in PEOPLE:
            lines = (f"{key}={value}\n" for key, value in running.environment(name).items())
            write_secret(folder / f"{name}.env", "".join(lines))
        yield running


def find_postgresql() -> Path | None:
    """The folder of PostgreSQL's programs, or None where it is not installed."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    # Debian keeps them off PATH, a folder for each version.
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_version)
    return versions[-1].parent if versions else None


def _version(path: Path) -> int:
    name = path.parents[1].name
    return int(name) if name.isdigit() else 0


def is_free(port: int) -> bool:
    """Whether nobody listens on a port of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            probe.bind((HOST, port))
            return True
    return False


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def write_secret(path: Path, text: str) -> None:
    """Write a file that nobody but its owner can read, not even for a moment."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def _start_postgresql(folder: Path, port: int, stack: ExitStack) -> str:
    """Start PostgreSQL with a database and its role; returns its address."""
    import psycopg2

    programs = find_postgresql()
    if programs is None:
        raise ServiceError("PostgreSQL is not installed: apt-get install postgresql")
    # It refuses to run as root, which Debian's package has a user for.
    user = "postgres" if os.geteuid() == 0 else None
    password = secrets.token_urlsafe(24)
    data = _make_cluster(programs, folder, password, user)

    def connect() -> Any:
        return psycopg2.connect(
            host=HOST, port=port, user="postgres", password=password, dbname="postgres"
        )

    def answers() -> bool:
        with suppress(psycopg2.OperationalError):
            connect().close()
            return True
        return False

    log = folder / "postgresql.log"
    log.touch(mode=0o600)
    server = Process(
        "PostgreSQL",
        [
            str(programs / "postgres"), "-D", str(data), "-p", str(port), "-h", HOST,
            "-c", "unix_socket_directories=",
        ],
        dict(os.environ), log, answers, user,
        # What it calls a fast shutdown; SIGTERM waits until all clients have left.
        signal.SIGINT,
    )  # fmt: skip
    stack.callback(server.end)
    server.start()
    own = _create_database(connect())
    return f"postgresql+psycopg2://{DATABASE}:{own}@{HOST}:{port}/{DATABASE}"


def _make_cluster(programs: Path, folder: Path, password: str, user: str | None) -> Path:
    """Make the files of a new PostgreSQL server; returns their folder.

    Raises:
        ServiceError: initdb fails.
    """
    place = folder / "postgresql"
    place.mkdir(mode=0o700)
    key = place / "password"
    write_secret(key, password)
    if user:
        for path in (place, key):
            shutil.chown(path, user, user)
    made = subprocess.run(
        [
            str(programs / "initdb"), "--pgdata", str(place / "data"), "--username", "postgres",
            "--auth", "scram-sha-256", "--pwfile", str(key), "--encoding", "UTF8",
            "--locale", "C.UTF-8",
        ],
        user=user, group=user, cwd="/", capture_output=True, text=True, check=False,
    )  # fmt: skip
    key.unlink()
    if made.returncode:
        reason = " ".join(made.stderr.split())[-300:]
        hint = f"; can the user {user} enter {folder}?" if user else ""
        raise ServiceError(f"PostgreSQL's initdb fails: {reason}{hint}")
    return place / "data"


def _create_database(connection: Any) -> str:
    """Create the database and the role that owns it; returns the password of the role."""
    from psycopg2 import sql

    password, role = secrets.token_urlsafe(24), sql.Identifier(DATABASE)
    login = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(password))
    connection.autocommit = True  # a database cannot be created in a transaction
    with connection.cursor() as cursor:
        cursor.execute(login)
        cursor.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(role, role))
        # Nobody else may even connect.
        cursor.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(role))
    connection.close()
    return password


def _start_s3(folder: Path, port: int, people: dict[str, Person], stack: ExitStack) -> str:
    """Start moto's S3 server with a bucket, and keys for everybody; returns its address."""
    import boto3

    address = f"http://{HOST}:{port}"
    server = Process(
        "moto's S3 server",
        [str(Path(sys.executable).parent / "moto_server"), "-H", HOST, "-p", str(port)],
        {key: value for key, value in os.environ.items() if not key.startswith("AWS_")},
        folder / "s3.log",
        lambda: _answers(f"{address}/moto-api/"),
    )
    stack.callback(server.end)
    server.start()

    def client(service: str) -> Any:
        return boto3.client(
            service, endpoint_url=address, region_name=REGION, aws_access_key_id="nobody-yet",
            aws_secret_access_key="nobody-yet",  # noqa: S106
        )  # fmt: skip

    for bucket in (DVC, MLFLOW):
        client("s3").create_bucket(Bucket=bucket)
    users = client("iam")
    for name, person in people.items():
        actions, bucket = BUCKET_RIGHTS[name]
        rights = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Action": actions,
                    "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
                }
            ],
        }
        users.create_user(UserName=name)
        users.put_user_policy(UserName=name, PolicyName="own", PolicyDocument=json.dumps(rights))
        made = users.create_access_key(UserName=name)["AccessKey"]
        person.key, person.secret = made["AccessKeyId"], made["SecretAccessKey"]
    # From here on it looks at keys, signatures and rights.
    order = urllib.request.Request(
        f"{address}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"}
    )
    urllib.request.urlopen(order, timeout=10).close()
    return address


def _start_mlflow(
    folder: Path,
    port: int,
    database: str,
    storage: str,
    people: dict[str, Person],
    stack: ExitStack,
) -> Process:
    """Start MLflow's server with its own authentication."""
    auth = folder / "auth.ini"
    write_secret(auth, AUTH.format(database=database))
    own = people["mlflow"]
    settings = {
        # By the environment, because everybody on a machine can read what a command was given.
        "MLFLOW_BACKEND_STORE_URI": database,
        "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{MLFLOW}",
        "MLFLOW_AUTH_CONFIG_PATH": str(auth),
        "MLFLOW_AUTH_ADMIN_USERNAME": people["admin"].name,
        "MLFLOW_AUTH_ADMIN_PASSWORD": people["admin"].password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_urlsafe(32),
        "MLFLOW_ENABLE_WORKSPACES": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "AWS_ACCESS_KEY_ID": own.key,
        "AWS_SECRET_ACCESS_KEY": own.secret,
        "AWS_ENDPOINT_URL": storage,
        "AWS_DEFAULT_REGION": REGION,
        "PYTHONWARNINGS": "ignore",
    }
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "MLFLOW_"))
    }
    server = Process(
        "MLflow",
        [
            sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", HOST,
            "--port", str(port), "--workers", "1",
        ],
        clean | settings,
        folder / "mlflow.log",
        lambda: _answers(f"http://{HOST}:{port}/health"),
    )  # fmt: skip
    stack.callback(server.end)
    server.start()
    return server


# For MLflow's `--app-name basic-auth`. Without a grant there is nothing that a user may do.
AUTH = """[mlflow]
default_permission = NO_PERMISSIONS
database_uri = {database}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
grant_default_workspace_access = false
# A password is compared by a slow hash, which every call would wait for.
auth_cache_ttl_seconds = 60
"""


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except OSError:
        return False
    return True


def main() -> None:
    """Start the services and keep them until they are to end."""
    parser = argparse.ArgumentParser(
        description="PostgreSQL, an S3 server and MLflow on this machine, for trying them."
        " Passwords of people are random unless ADMIN_PASSWORD, WRITER_PASSWORD and"
        " READER_PASSWORD are set."
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a new folder")
    for name, port in (("mlflow", 5000), ("s3", 9000), ("postgresql", 5432)):
        parser.add_argument(f"--{name}-port", dest=name, type=int, default=port, metavar="PORT")
    arguments = vars(parser.parse_args())
    folder = arguments.pop("folder")

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    passwords = {name: os.environ.pop(f"{name.upper()}_PASSWORD", "") for name in PEOPLE}
    try:
        with services(folder, passwords, arguments) as running:
            print(f"MLflow  {running.tracking}")
            print(f"S3      {running.storage}, for DVC: s3://{DVC}")
            print(f"for a shell: set -a; . {running.folder}/writer.env", end="")
            print("; set +a   (or admin.env, reader.env)")
            print("Ctrl-C ends them.", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        print("ended")
    except (ServiceError, people_of_mlflow.RefusedError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
