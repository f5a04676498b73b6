"""Where runs and studies are stored: addresses of databases and servers."""

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from striate.data import files

# The user name and password in an address; a / in a password is often left unquoted.
USER_INFO = re.compile(r"(?<=://)([^/\s:@]*:\S*|[^/\s]*)@")
PLAIN_PATH = re.compile(r"[\w./ +-]*")  # needs no quoting in an address of SQLite
SQLITE = re.compile(r"(sqlite(?:\+\w+)?:///)([^?]+)(.*)", re.DOTALL)  # not that in memory
LOOPBACK = "localhost,127.0.0.1,::1"


def root() -> Path:
    """The main repository, also when DVC runs a stage in a temporary copy of it."""
    return files.repository().resolve()


def database() -> Path:
    """Where runs are stored unless `MLFLOW_TRACKING_URI` is set."""
    return root() / "mlflow.db"


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or the SQLite database at the root of the main repository.

    A relative path in it is relative to that root, also where DVC runs a stage in a copy.
    """
    uri = with_driver(os.environ.get("MLFLOW_TRACKING_URI") or sqlite_address(database()))
    match = SQLITE.fullmatch(uri)
    if match is None or match[2].startswith((":memory:", "file:")):
        return uri
    path = Path(unquote(match[2]))
    return uri if path.is_absolute() else sqlite_address(root() / path) + match[3]


def is_own() -> bool:
    """Whether runs are stored in the repository's own database."""
    return tracking_uri() == sqlite_address(database())


def is_server() -> bool:
    """Whether runs are stored by a server, which other people may use at the same time."""
    return tracking_uri().startswith(("http://", "https://"))


def is_valid_server(uri: str) -> bool:
    """Whether a server's address has a host and a port, and all of its password before them.

    Python's own error messages about an address show parts of the password.
    """
    try:
        parts = urlsplit(uri)
        rest = parts._replace(netloc="").geturl()
        return bool(parts.hostname) and parts.port != 0 and "@" not in rest
    except ValueError:
        return False


def with_driver(uri: str) -> str:
    """The address with the PostgreSQL driver that is installed; SQLAlchemy's default is another."""
    return re.sub("^postgres(ql)?://", "postgresql+psycopg2://", uri)


def sqlite_address(path: Path) -> str:
    """The address of a SQLite database, for MLflow and Optuna.

    SQLAlchemy decodes the path in an address; MLflow creates its parent folder without decoding it,
    so an encoded path is one name, with no folder to create.
    """
    text = str(path)
    return "sqlite:///" + (text if PLAIN_PATH.fullmatch(text) else quote(text, safe=""))


def masked(text: str) -> str:
    """A text without the user names and passwords of the addresses in it."""
    return USER_INFO.sub("***@", text)


def move_credentials() -> None:
    """Move user name and password from the server's address to the variables that MLflow reads.

    It would print the address in its messages, and send artifacts without credentials.
    """
    parts = urlsplit(tracking_uri())
    if is_server() and parts.username and parts.password:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)
        parts = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        os.environ["MLFLOW_TRACKING_URI"] = parts.geturl()


def bypass_proxy() -> None:
    """Use no proxy for addresses on this machine, in this process and its children."""
    bypassed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if LOOPBACK not in bypassed and bypassed != "*":
        bypassed = ",".join(filter(None, (bypassed, LOOPBACK)))
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = bypassed
