"""What is deployed, as far as it can be looked at without a container engine or a cluster."""

import configparser
import importlib
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from paths import ROOT

DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
CLUSTER = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
SLURM = (DEPLOY / "slurm.sbatch").read_text()


def instructions(name):
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.split(None, 1)[1] for line in joined.splitlines() if line.startswith(f"{name} ")]


def test_the_image_copies_what_is_there_and_what_is_not_ignored():
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    copied = [source for line in instructions("COPY") for source in line.split()[:-1]]
    assert {"requirements.lock", "src", "pyproject.toml"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignore, source
    assert ignore[1] == "*"
    assert {line[1:] for line in ignore if line[:1] == "!"} == set(copied)


def test_the_image_installs_by_hash_and_runs_as_nobody_special():
    commands = [part.strip() for line in instructions("RUN") for part in line.split("&&")]
    installs = [
        command for command in commands if " install " in f" {command} " and "pip" in command
    ]
    assert len(installs) == 3
    for command in installs:
        assert "--require-hashes" in command or "--no-deps" in command
        assert "index" not in command
    assert instructions("USER") == ["striate"]
    assert "://" not in DOCKERFILE
    needed = (ROOT / "pyproject.toml").read_text()
    for name in ("README.md", "LICENSE"):  # building the package reads them
        assert name in needed


def test_every_password_of_the_services_comes_from_the_environment(tmp_path, monkeypatch, capsys):
    text = (DEPLOY / "compose.yaml").read_text()
    for line in text.splitlines():
        if re.search(r"(PASSWORD|SECRET\w*|secretKey)\"?: ", line):
            assert "${" in line, line
    wanted = set(re.findall(r"\$\{(\w+):\?\}", text))
    assert len(wanted) == 7
    monkeypatch.syspath_prepend(DEPLOY)
    import make_env

    (tmp_path / "compose.yaml").write_text(text)
    (tmp_path / ".env").write_text("POSTGRES_PASSWORD=mine\n")
    monkeypatch.setattr(make_env, "HERE", tmp_path)
    for _ in range(2):
        make_env.main()
    assert "6 passwords added" in capsys.readouterr().out
    values = dict(line.split("=") for line in (tmp_path / ".env").read_text().splitlines())
    assert set(values) == wanted
    assert values["POSTGRES_PASSWORD"] == "mine"
    assert len(set(values.values())) == 7
    assert min(len(value) for name, value in values.items() if name != "POSTGRES_PASSWORD") >= 32


def test_a_file_of_passwords_is_its_owners_and_not_gits(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(DEPLOY)
    import make_env

    (tmp_path / "compose.yaml").write_text("${A:?}")
    monkeypatch.setattr(make_env, "HERE", tmp_path)
    make_env.main()
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    ignored = ["deploy/.env", "writer.env"]
    for name in ignored:
        subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT, check=True)


def test_the_services_are_reached_from_this_machine_only_and_know_each_other():
    for service in COMPOSE["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert set(service["networks"]) <= set(COMPOSE["networks"])
        for config in service.get("configs", []):
            assert config["source"] in COMPOSE["configs"]
        if "build" in service:
            build = service["build"]
            assert (DEPLOY / build["context"] / build["dockerfile"]).resolve().exists()
    assert COMPOSE["networks"]["inside"] == {"internal": True}


def test_one_service_trains_on_a_gpu_and_is_otherwise_the_one_that_asks_for_none():
    services = COMPOSE["services"]
    assert services["train-on-gpu"] == services["train"] | {"gpus": "all"}


@pytest.fixture
def tried(monkeypatch):
    """deploy/services.py, whose servers other tests start."""
    monkeypatch.syspath_prepend(DEPLOY)
    return importlib.import_module("services")


def test_mlflow_asks_for_passwords_as_the_server_that_was_tried(tried):
    command = COMPOSE["services"]["mlflow"]["command"]
    assert command[:4] == ["mlflow", "server", "--app-name", "basic-auth"]
    ours, theirs = configparser.ConfigParser(), configparser.ConfigParser()
    ours.read_string(COMPOSE["configs"]["auth"]["content"])
    theirs.read_string(tried.AUTH.format(database=""))
    for section in (ours["mlflow"], theirs["mlflow"]):
        del section["database_uri"]
    assert dict(ours["mlflow"]) == dict(theirs["mlflow"])
    assert ours["mlflow"]["default_permission"] == "NO_PERMISSIONS"


def test_the_rights_in_the_storage_are_those_that_were_tried(tried):
    identities = yaml.safe_load(COMPOSE["configs"]["s3"]["content"])["identities"]
    rights = {identity["name"]: identity["actions"] for identity in identities}
    assert rights["reader"] == [f"Read:{tried.DVC}", f"List:{tried.DVC}"]
    assert all(action.endswith(f":{tried.MLFLOW}") for action in rights["mlflow"])
    assert COMPOSE["services"]["buckets"]["command"][2:] == [tried.DVC, tried.MLFLOW]
    compile(COMPOSE["configs"]["buckets"]["content"], "buckets.py", "exec")


CLAIM, SERVICE, JOB = CLUSTER
POD = JOB["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


def test_the_job_of_a_cluster_finds_its_machines():
    assert [part["kind"] for part in CLUSTER] == ["PersistentVolumeClaim", "Service", "Job"]
    variables = {entry["name"]: entry["value"] for entry in CONTAINER["env"]}
    assert JOB["spec"]["completionMode"] == "Indexed"
    assert JOB["spec"]["completions"] == JOB["spec"]["parallelism"] == int(variables["PET_NNODES"])
    assert SERVICE["spec"]["clusterIP"] == "None"
    assert SERVICE["spec"]["selector"] == {"job-name": JOB["metadata"]["name"]}
    assert POD["subdomain"] == SERVICE["metadata"]["name"]
    host, port = variables["PET_RDZV_ENDPOINT"].split(":")
    assert host == f"{JOB['metadata']['name']}-0.{POD['subdomain']}"
    assert int(port) == SERVICE["spec"]["ports"][0]["port"]


def test_the_machines_of_a_cluster_share_one_volume():
    assert CLAIM["spec"]["accessModes"] == ["ReadWriteMany"]
    (volume,) = [v for v in POD["volumes"] if "persistentVolumeClaim" in v]
    assert volume["persistentVolumeClaim"]["claimName"] == CLAIM["metadata"]["name"]
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == {
        volume["name"] for volume in POD["volumes"]
    }


def test_the_container_of_a_cluster_has_no_rights_and_runs_the_stage():
    assert CONTAINER["envFrom"] == [{"secretRef": {"name": "striate-credentials"}}]
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert f"--uid {POD['securityContext']['runAsUser']} " in DOCKERFILE
    assert CONTAINER["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    script = CONTAINER["args"][0]
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "python stages/train.py" in script


@pytest.mark.parametrize("text", [SLURM, (DEPLOY / "kubernetes.yaml").read_text()])
def test_torchrun_takes_each_variable_that_a_template_sets(text, monkeypatch):
    from torch.distributed.run import get_args_parser

    names = set(re.findall(r"\bPET_\w+", text))
    assert {"PET_NNODES", "PET_NPROC_PER_NODE", "PET_RDZV_ENDPOINT", "PET_RDZV_BACKEND"} <= names
    for name in names:
        monkeypatch.setenv(name, "seven")
    options = vars(get_args_parser().parse_args(["stages/train.py"]))
    for name in names:
        assert options[name.removeprefix("PET_").lower()] == "seven", name


def test_the_slurm_script_starts_the_first_machine_by_dvc_and_the_others_by_the_stage(tmp_path):
    """With commands of its names that say what they were called with."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").write_text("")
    (tmp_path / "secret.env").write_text("MLFLOW_TRACKING_USERNAME=writer\n")
    told = 'echo "$(basename "$0") $* by $MLFLOW_TRACKING_USERNAME at $PET_RDZV_ENDPOINT" >> said'
    scripts = {
        "dvc": f'{told}\n[ "$1" != status ] || exit 1\n[ "$2" != --no-run-cache ] || exit 3',
        "striate": told,
        "python": f"{told}\necho $PYTHONPATH of $PET_NNODES x $PET_NPROC_PER_NODE >> said",
        "scontrol": "echo first; echo second",
        # The steps' own statuses are their machines'; the worst is the job's.
        "srun": 'shift; for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@" || worst=$?; done;'
        " exit ${worst:-0}",
    }
    for name, script in scripts.items():
        (programs / name).write_text(f"#!/bin/bash\n{script}\n")
        (programs / name).chmod(0o755)
    environment = {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "123456", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4",
        "SLURM_JOB_NODELIST": "x", "STRIATE_CREDENTIALS": str(tmp_path / "secret.env"),
        "HOME": str(tmp_path), "PET_RDZV_ENDPOINT": "", "PYTHONPATH": "",
    }  # fmt: skip
    script = DEPLOY / "slurm.sbatch"
    job = subprocess.run(["bash", script], env=environment, cwd=tmp_path, check=False)
    assert job.returncode == 3  # that of the training, whatever is recorded after it
    assert (tmp_path / "said").read_text().splitlines() == [
        "dvc repro download by writer at ",
        "dvc status --quiet train by writer at ",
        "dvc repro --no-run-cache by writer at first:23456",
        "striate sync by writer at first:23456",
        "python stages/train.py by writer at first:23456",
        "src of 2 x 4",
    ]
    # Nothing to train: no other machine is to wait for it.
    (programs / "dvc").write_text(f"#!/bin/bash\n{told}\n")
    Path(tmp_path / "said").unlink()
    subprocess.run(["bash", script], env=environment, cwd=tmp_path, check=True)
    assert [line.split(" by")[0] for line in (tmp_path / "said").read_text().splitlines()] == [
        "dvc repro download", "dvc status --quiet train", "dvc repro", "striate sync",
    ]  # fmt: skip


@pytest.mark.parametrize("status", [0, 3])
@pytest.mark.parametrize("place", ["Dockerfile", "kubernetes.yaml"])
def test_a_container_ends_when_mlflow_is_written_and_with_the_status_of_dvc(
    tmp_path, place, status
):
    if place == "Dockerfile":
        command = json.loads(instructions("CMD")[0])
    else:
        (container,) = CLUSTER[2]["spec"]["template"]["spec"]["containers"]
        command = container["command"] + container["args"]
    for name, code in (("dvc", status), ("striate", 1)):
        (tmp_path / name).write_text(f"#!/bin/bash\necho {name} $1 >> {tmp_path}/said\nexit {code}")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    found = subprocess.run(command, env={"PATH": path, "JOB_COMPLETION_INDEX": "0"}, check=False)
    assert found.returncode == status
    assert (tmp_path / "said").read_text() == "dvc repro\nstriate sync\n"


def test_the_image_is_compiled_as_its_user_cannot_write_there():
    installs = [line for line in DOCKERFILE.splitlines() if "uv pip install" in line]
    assert len(installs) == 2
    assert all(" --compile-bytecode " in line for line in installs)


@pytest.mark.parametrize("name", sorted(path.name for path in DEPLOY.iterdir() if path.is_file()))
def test_no_file_names_an_index_or_a_registry(name):
    text = (DEPLOY / name).read_text()
    # The name of a kind of device is no address.
    assert not re.search(r"\w+\.(io|com|org|net)/", text.replace("nvidia.com/gpu", "")), name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["params.yaml"], "params.yaml is no empty folder; name a new one"),
        (["src"], "src is no empty folder; name a new one"),
        (["--s3-port", "99999", "new"], "--s3-port is 99999; it must be from 1 to 65535"),
    ],
)
def test_services_refuse_a_faulty_argument_in_one_line(arguments, said):
    answer = subprocess.run(
        [sys.executable, "deploy/services.py", *arguments], cwd=ROOT, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith("error: ")
    assert answer.stderr.endswith(f"{said}\n")
    assert answer.stderr.count("\n") == 1
    assert not (ROOT / "new").exists()
