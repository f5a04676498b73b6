"""Two people, one Git repository, one S3 remote and one MLflow server with PostgreSQL behind it."""

import base64
import itertools
import json
import stat
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import boto3
import botocore.exceptions
import psutil
import psycopg2
import pytest
from botocore.config import Config
from clones import Clone
from paths import ROOT

sys.path[:0] = [str(ROOT / "deploy"), str(ROOT / "benchmarks")]
import people  # noqa: E402
import services as deploy  # noqa: E402
import team  # noqa: E402

pytestmark = pytest.mark.walk
REMOTE = f"s3://{deploy.DVC}"
WIDER = ("-S", "model.width=5")


class Member(Clone):
    """A clone of somebody with variables of their own."""

    def __init__(self, folder, variables):
        super().__init__(folder)
        self.env |= variables

    def repro(self):
        """What `dvc repro` ran, by stage."""
        return ran(self.run("dvc", "repro"))


def ran(said):
    return [line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage")]


@pytest.fixture(scope="module")
def services():
    if deploy.find_postgresql() is None:
        pytest.skip("no PostgreSQL: apt-get install postgresql")
    # Not where pytest keeps its files: PostgreSQL's user could not enter that.
    with tempfile.TemporaryDirectory(prefix="striate-team-") as folder:
        Path(folder).chmod(0o755)
        with deploy.services(Path(folder) / "services") as running:
            yield running


@pytest.fixture(scope="module")
def first(services, tmp_path_factory):
    """Who made an experiment and pushed everything.

    The password stands in the server's address here, which people do although there are variables
    for it. What was said, and the command of every process meanwhile, is in `said`.
    """
    folder = tmp_path_factory.mktemp("team")
    person = services.people["writer"]
    address = services.tracking.replace("//", f"//{person.name}:{person.password}@")
    variables = services.environment("writer") | {"MLFLOW_TRACKING_URI": address}
    for key in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        del variables[key]
    made = Clone.of_this_tree(
        folder / "first", variables=variables, training__epochs=1, model__width=4
    )
    clone = Member(made.folder, variables)
    # Before the experiment: DVC asks the experiment's own commit where its files are.
    clone.run("dvc", "remote", "add", "--default", "team", REMOTE)
    clone.run("git", "commit", "-qam", "Name the team's storage.")
    clone.said = experiment_watched(clone, "wider", *WIDER)
    clone.run("git", "init", "-q", "--bare", "-b", "main", str(folder / "origin"))
    clone.run("git", "remote", "add", "origin", str(folder / "origin"))
    clone.run("git", "push", "-q", "-u", "origin", "main")
    clone.said += clone.run("dvc", "push")
    clone.said += clone.run("dvc", "exp", "push", "origin", "--all")
    clone.said += clone.striate("share")
    clone.said += clone.striate("sync")
    return clone


def experiment_watched(clone, name, *settings):
    """Run an experiment; returns what it said and the commands that `ps` would have shown."""
    running = subprocess.Popen(
        ["dvc", "exp", "run", "--temp", "-n", name, *settings], cwd=clone.folder, env=clone.env,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    seen = set()
    while running.poll() is None:
        for process in psutil.process_iter(["cmdline"]):
            seen.update(process.info["cmdline"] or [])
        with suppress(subprocess.TimeoutExpired):
            running.wait(0.5)
    said = running.stdout.read()
    running.stdout.close()
    assert running.returncode == 0, said
    assert "warning" not in said
    return "\n".join([said, *seen])


@pytest.fixture(scope="module")
def second(services, first):
    """Who got all of it."""
    clone = Member(first.folder.parent / "second", services.environment("writer"))
    first.run("git", "clone", "-q", str(first.folder.parent / "origin"), str(clone.folder))
    clone.run("dvc", "exp", "pull", "origin", "--all")
    clone.run("dvc", "pull", "--run-cache")
    return clone


def query(services, text):
    with psycopg2.connect(services.database.replace("+psycopg2", "")) as connection:
        cursor = connection.cursor()
        cursor.execute(text)
        rows = cursor.fetchall()
    connection.close()
    return rows


def count_of_runs(services):
    """By status, without the deleted ones."""
    return dict(
        query(
            services,
            "SELECT status, count(*) FROM runs WHERE lifecycle_stage = 'active' GROUP BY status",
        )
    )


def test_what_one_person_made_the_other_gets_without_training(services, first, second):
    assert second.json("metrics/test.json") == first.json("metrics/test.json")
    assert second.repro() == []
    assert ran(second.run("dvc", "exp", "run", "--temp", "--pull", "-n", "again", *WIDER)) == []
    assert second.lock_of_checkpoint() == first.lock_of_checkpoint()
    assert "again, wider" in second.striate("sync")
    for clone in (first, second):
        assert clone.striate("verify") == "MLflow agrees with DVC on 2 experiments\n"
    assert count_of_runs(services) == {"FINISHED": 2}
    # The names are those of both: neither takes the other's away.
    assert "nothing to do" in first.striate("sync")
    assert "nothing to do" in second.striate("sync")
    names = query(services, "SELECT value FROM tags WHERE key = 'dvc.experiment'")
    assert ("again wider",) in names


def test_with_a_store_of_ones_own_sync_makes_every_run(second):
    alone = Member(second.folder, {})
    assert alone.striate("sync").count("replayed, added checkpoint, added figures") == 2
    assert alone.striate("verify") == "MLflow agrees with DVC on 2 experiments\n"


def test_two_people_who_sync_at_once_make_one_run_of_each_experiment(services, first, second):
    query_without_answer(services, "UPDATE runs SET lifecycle_stage = 'deleted'")
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "striate.cli", "sync"], cwd=clone.folder, env=clone.env,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for clone in (first, second)
    ]  # fmt: skip
    said = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert count_of_runs(services) == {"FINISHED": 2}
    for clone in (first, second):
        assert clone.striate("verify") == "MLflow agrees with DVC on 2 experiments\n"


def query_without_answer(services, text):
    with psycopg2.connect(services.database.replace("+psycopg2", "")) as connection:
        connection.cursor().execute(text)
    connection.close()


def status(services, name, password, method, path, values=None):
    """What MLflow answers."""
    login = base64.b64encode(f"{name}:{password}".encode()).decode()
    headers = {"Content-Type": "application/json"}
    if name:
        headers["Authorization"] = f"Basic {login}"
    request = urllib.request.Request(
        f"{services.tracking}/{path}", json.dumps(values).encode() if values else None, headers,
        method=method,
    )  # fmt: skip
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.fixture
def calls(services):
    """Calls of MLflow's server by what they need, as (method, path, a function of the values)."""
    ask = people.administrator(services.tracking, "admin", services.people["admin"].password)
    number = ask("2.0/mlflow/experiments/get-by-name?experiment_name=striate")["experiment"][
        "experiment_id"
    ]
    made = ask("2.0/mlflow/runs/create", experiment_id=number, run_name="probe")
    run = made["run"]["info"]["run_id"]
    artifact = f"api/2.0/mlflow-artifacts/artifacts/workspaces/default/{number}/{run}/artifacts"
    path = f"{artifact}/probe/file"
    answer = status(services, "writer", services.people["writer"].password, "PUT", path, {"a": 1})
    assert answer == 200
    api = "api/2.0/mlflow"
    third = {"username": "third", "password": "a long password"}
    promoted = {"username": "reader", "is_admin": True}
    yield {
        "reading": [
            ("POST", f"{api}/runs/search", lambda: {"experiment_ids": [str(number)]}),
            ("GET", f"{api}/runs/get?run_id={run}", dict),
            ("GET", path, dict),
            ("GET", f"{api}/experiments/get-by-name?experiment_name=striate", dict),
        ],
        "writing": [
            ("POST", f"{api}/runs/create",
             lambda: {"experiment_id": str(number), "run_name": "probe"}),
            ("POST", f"{api}/runs/set-tag", lambda: {"run_id": run, "key": "probe", "value": "1"}),
            ("PUT", path, lambda: {"a": 1}),
            ("POST", f"{api}/experiments/create", lambda: {"name": f"probe {next(FREE)}"}),
            ("POST", f"{api}/registered-models/create", lambda: {"name": f"probe {next(FREE)}"}),
        ],
        "ruling": [
            ("POST", f"{api}/users/create", lambda: third),
            ("PATCH", f"{api}/users/update-admin", lambda: promoted),
            ("POST", f"{api}/experiments/delete", lambda: {"experiment_id": number}),
        ],
    }  # fmt: skip
    query_without_answer(
        services, "UPDATE runs SET lifecycle_stage = 'deleted' WHERE name = 'probe'"
    )


FREE = itertools.count()  # for names that nothing has


def answers_of_mlflow(services, name, password, calls):
    return [
        status(services, name, password, method, path, values()) for method, path, values in calls
    ]


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("reader", "reading", {200}), ("writer", "reading", {200}), ("admin", "reading", {200}),
        ("reader", "writing", {403}), ("writer", "writing", {200}),
        ("reader", "ruling", {403}), ("writer", "ruling", {403}),
    ],
)  # fmt: skip
def test_what_a_role_may_do_in_mlflow(services, calls, name, kind, expected):
    password = services.people[name].password
    assert set(answers_of_mlflow(services, name, password, calls[kind])) == expected


@pytest.mark.parametrize(
    ("name", "password"),
    [("reader", "wrong password"), ("admin", "password1234"), ("nobody", "at all"), ("", "")],
)
def test_mlflow_refuses_every_call_without_the_right_password(services, calls, name, password):
    every = itertools.chain(*calls.values())
    assert set(answers_of_mlflow(services, name, password, every)) == {401}


def test_somebody_without_a_role_sees_nothing(services, monkeypatch, capsys):
    admin = services.environment("admin")
    for key in ("URI", "USERNAME", "PASSWORD"):
        monkeypatch.setenv(f"MLFLOW_TRACKING_{key}", admin[f"MLFLOW_TRACKING_{key}"])
    ask = people.administrator(services.tracking, "admin", admin["MLFLOW_TRACKING_PASSWORD"])
    ask("2.0/mlflow/users/create", username="guest", password="a long password")
    path = "api/2.0/mlflow/experiments/get-by-name?experiment_name=striate"
    assert status(services, "guest", "a long password", "GET", path) == 403
    monkeypatch.setenv("PASSWORD", "a long password")
    monkeypatch.setattr(sys, "argv", ["people.py", "guest", "reader"])
    people.main()
    assert capsys.readouterr().out == "guest is a reader\n"
    assert status(services, "guest", "a long password", "GET", path) == 200
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    with pytest.raises(SystemExit, match=r"^error: MLflow refuses .*\(401\)"):
        people.main()


def storage(services, key, secret):
    return boto3.client(
        "s3", endpoint_url=services.storage, region_name=deploy.REGION, aws_access_key_id=key,
        aws_secret_access_key=secret, config=Config(retries={"max_attempts": 0}),
    )  # fmt: skip


def code(call, **options):
    try:
        return call(**options)["ResponseMetadata"]["HTTPStatusCode"]
    except botocore.exceptions.ClientError as error:
        return error.response["Error"]["Code"]


def answers_of_storage(services, key, secret, bucket=deploy.DVC):
    """To listing, writing, overwriting, reading and deleting."""
    client = storage(services, key, secret)
    return [
        code(client.list_objects_v2, Bucket=bucket, MaxKeys=1),
        code(client.put_object, Bucket=bucket, Key="probe", Body=b"x"),
        code(client.put_object, Bucket=bucket, Key="probe", Body=b"y"),
        code(client.get_object, Bucket=bucket, Key="probe"),
        code(client.delete_object, Bucket=bucket, Key="other"),
    ]


DENIED = "AccessDenied"
# moto itself opens files that it leaves to the garbage collector.
of_moto = pytest.mark.filterwarnings("ignore::ResourceWarning")


@of_moto
@pytest.mark.parametrize(
    ("name", "bucket", "expected"),
    [
        ("admin", deploy.DVC, [200, 200, 200, 200, 204]),
        ("writer", deploy.DVC, [200, 200, 200, 200, 204]),
        ("reader", deploy.DVC, [200, DENIED, DENIED, 200, DENIED]),
        # Artifacts are MLflow's, which asks who it is.
        ("writer", deploy.MLFLOW, [DENIED] * 5),
        ("reader", deploy.MLFLOW, [DENIED] * 5),
    ],
)
def test_what_a_role_may_do_in_the_storage(services, name, bucket, expected):
    admin, person = services.people["admin"], services.people[name]
    client = storage(services, admin.key, admin.secret)
    assert code(client.put_object, Bucket=deploy.DVC, Key="probe", Body=b"y") == 200
    assert answers_of_storage(services, person.key, person.secret, bucket) == expected


@of_moto
def test_the_storage_refuses_keys_that_do_not_belong_together(services):
    writer = services.people["writer"]
    assert set(answers_of_storage(services, writer.key, "x" * 40)) == {"SignatureDoesNotMatch"}
    unknown = answers_of_storage(services, "AKIANOBODYATALL00000", writer.secret)
    assert set(unknown) == {"InvalidAccessKeyId"}


@of_moto
def test_without_keys_nothing_is_read_or_changed_in_the_storage(services):
    admin = services.people["admin"]
    client = storage(services, admin.key, admin.secret)
    client.put_object(Bucket=deploy.DVC, Key="probe", Body=b"y")
    for method, key in itertools.product(("GET", "PUT", "DELETE"), ("probe", "new")):
        request = urllib.request.Request(
            f"{services.storage}/{deploy.DVC}/{key}",
            b"z" if method == "PUT" else None, method=method,
        )  # fmt: skip
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=30)
        refused.value.close()
    assert client.get_object(Bucket=deploy.DVC, Key="probe")["Body"].read() == b"y"
    assert code(client.get_object, Bucket=deploy.DVC, Key="new") == "NoSuchKey"


@pytest.fixture(scope="module")
def reader(services, second):
    """Who may only read, trained, and tried to record and to push it; another person recorded it.

    Has what the commands said (`trained`, `synced`, `shared`), what `sync` of the other person said
    (`recorded`), and how many runs were finished before and after that (`counts`).
    """
    reader = Member(second.folder, services.environment("reader"))
    settings = ("-n", "readers", "-S", "model.width=3")
    reader.trained = reader.run("dvc", "exp", "run", "--temp", *settings)
    reader.synced = reader.striate("sync", status=2)
    reader.shared = reader.striate("share", status=2)
    before = count_of_runs(services)["FINISHED"]
    reader.recorded = second.striate("sync")
    reader.counts = before, count_of_runs(services)["FINISHED"]
    return reader


def test_who_may_only_read_trains_and_is_told_that_it_is_not_recorded(services, reader):
    assert "Ran experiment(s): readers" in reader.trained
    said = reader.trained + reader.synced
    # What the background process has to say is told by whatever comes next.
    (warning,) = [line for line in said.splitlines() if line.startswith("warning: ")]
    assert "failed, so this run is not logged there: " in warning
    (error,) = [line for line in reader.synced.splitlines() if line.startswith("error: ")]
    assert error.startswith(f"error: MLflow at {services.tracking} failed: ")
    assert all("Permission denied" in line for line in (warning, error))
    assert "Traceback" not in said


def test_who_may_only_read_pushes_nothing(reader):
    assert reader.shared.splitlines()[-1].startswith("error: ")  # below DVC's own, a line a file
    assert "Traceback" not in reader.shared


def test_somebody_else_records_what_a_reader_trained(reader):
    before, after = reader.counts
    assert "replayed" in reader.recorded
    assert after == before + 1
    assert reader.striate("verify") == "MLflow agrees with DVC on 3 experiments\n"


def test_without_a_login_verify_ends_in_one_line(services, second):
    stranger = Member(second.folder, {"MLFLOW_TRACKING_URI": services.tracking})
    refused = stranger.striate("verify", status=2)
    assert "You are not authenticated" in refused
    assert refused.count("\n") == 1


def test_an_address_is_shown_without_its_password(services, first):
    assert f"{services.tracking}/#/experiments/" in first.striate("ui")
    password = services.people["writer"].password
    nowhere = f"127.0.0.1:{deploy.free_port()}"
    lost = Member(first.folder, {"MLFLOW_TRACKING_URI": f"http://a:{password}@{nowhere}"})
    refused = lost.striate("verify", status=2)
    assert f"MLflow at http://{nowhere} failed" in refused
    assert password not in refused


def stored_texts(services, folders):
    """All that is stored, by name, but for the files that passwords belong in."""
    database = services.database.replace("+psycopg2", "")
    texts = {
        "dump": subprocess.run(
            [deploy.find_postgresql() / "pg_dump", "--dbname", database, "--inserts"],
            check=True, capture_output=True, text=True,
        ).stdout
    }  # fmt: skip
    for folder in folders:
        for file in folder.rglob("*"):
            kept = file.suffix == ".env" or file.name == "auth.ini" or "postgresql" in file.parts
            if file.is_file() and not kept:
                texts[str(file)] = file.read_bytes().decode(errors="replace")
    client = storage(services, services.people["admin"].key, services.people["admin"].secret)
    for bucket in (deploy.DVC, deploy.MLFLOW):
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for entry in page["Contents"]:
                body = client.get_object(Bucket=bucket, Key=entry["Key"])["Body"]
                texts[f"{bucket}/{entry['Key']}"] = body.read().decode(errors="replace")
    return texts


@of_moto
def test_no_password_is_printed_or_stored_where_it_does_not_belong(services, first):
    texts = stored_texts(services, (first.folder, services.folder))
    texts["said"] = first.said + first.striate("verify") + first.striate("ui")
    assert "stages/train.py" in texts["said"]
    assert "model.width" in texts["dump"]
    assert len(texts) > 100
    secrets = [services.database.split(":")[2].split("@")[0]]
    for person in services.people.values():
        secrets += [person.password, person.secret]
    assert [name for name, text in texts.items() if any(secret in text for secret in secrets)] == []


def test_files_with_passwords_are_their_owners_alone(services):
    for name in ("admin.env", "writer.env", "reader.env", "auth.ini"):
        assert stat.S_IMODE((services.folder / name).stat().st_mode) == 0o600


def test_a_server_that_is_killed_among_trainings_loses_nothing(services, tmp_path, monkeypatch):
    monkeypatch.setattr(team, "EPOCH_SECONDS", 1.0)
    found = team.measure(services, tmp_path / "work", runs=2, epochs=30)
    print(*found["said"], sep="\n")
    assert found["metrics"] == 2 * 30 * team.PER_EPOCH
    assert (found["there"], found["lost"], found["twice"], found["wrong"]) == (
        found["metrics"], 0, 0, 0,
    )  # fmt: skip
    assert max(found["waited"]) < deploy.START_SECONDS
