"""The manifests of deploy/kubernetes: rendered by kubectl, checked against schemas, and held against the code."""

import os
import re
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from app.api.admission import PROBES
from app.server.signals import grace_s
from app.server.supervisor import _CLOSING_S
from app.settings import PREFIX, Settings
from tests.compose.test_passwords import passwords

ROOT = Path(__file__).parents[2]
_MANIFESTS = ROOT / "deploy" / "kubernetes"
_SCHEMAS: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("schemas.yml").read_text(encoding="utf-8"))
_DIRECTORIES = ("", "expand", "finish", "monitoring")
_KINDS = ["ConfigMap", "Deployment", "HorizontalPodAutoscaler", "Job", "Job", "NetworkPolicy", "PodDisruptionBudget", "Service"]
_DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


@cache
def rendered(directory: str) -> list[dict[str, Any]]:
    """Return the objects that kustomize makes of a directory."""
    program = shutil.which("kubectl")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("kubectl is missing: .ci/run installs it")
        pytest.skip("kubectl is not installed (on Debian: apt-get install --no-install-recommends kubernetes-client)")
    done = subprocess.run([program, "kustomize", str(_MANIFESTS / directory)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def _everything() -> list[dict[str, Any]]:
    return [document for directory in _DIRECTORIES for document in rendered(directory)]


def _one(kind: str, directory: str = "") -> dict[str, Any]:
    [found] = [document for document in rendered(directory) if document["kind"] == kind]
    return found


def _pod(kind: str = "Deployment", directory: str = "") -> dict[str, Any]:
    pod: dict[str, Any] = _one(kind, directory)["spec"]["template"]["spec"]
    return pod


def _container(kind: str = "Deployment", directory: str = "") -> dict[str, Any]:
    [container] = _pod(kind, directory)["containers"]
    return dict(container)


def _closed(schema: Any) -> Any:
    """Return a schema in which an object that lists its properties has no others."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: _closed(value) for name, value in schema.items()}
    lists = isinstance(schema.get("properties"), dict) and "const" not in schema
    return {"type": "object", "additionalProperties": False, **inner} if lists else inner


def _faults(document: dict[str, Any]) -> list[str]:
    schema = _closed({**_SCHEMAS[document["kind"]], "$defs": _SCHEMAS["defs"]})
    return [f"{list(error.instance_path)}: {error.message}" for error in jsonschema_rs.iter_errors(schema, document)]


def test_every_object_follows_its_schema() -> None:
    """Every field is one that Kubernetes has, with a value that it takes."""
    documents = _everything()
    assert sorted(document["kind"] for document in documents) == sorted([*_KINDS, "ServiceMonitor"])
    assert [(document["kind"], fault) for document in documents for fault in _faults(document)] == []


def _objects_within(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the places of all objects, but for those whose names are free."""
    if isinstance(value, list):
        return [place for number, item in enumerate(value) for place in _objects_within(item, (*path, number))]
    if not isinstance(value, dict):
        return []
    return [path, *(place for name, item in value.items() for place in _objects_within(item, (*path, name)))]


def test_a_misspelt_field_is_found_wherever_it_stands() -> None:
    """A field that is unknown is an error in every object of every manifest, so that the schemas have no hole."""
    for document in _everything():
        places = _objects_within(document)
        assert len(places) >= 3
        for place in places:
            changed = yaml.safe_load(yaml.safe_dump(document))
            target = changed
            for step in place:
                target = target[step]
            target["misSpelt"] = "x"
            free = place[-1:] in {("labels",), ("matchLabels",)} or (
                document["kind"] == "Service" and place[-1:] == ("selector",)
            )
            assert _faults(changed) or free, (document["kind"], place)


def test_ports_are_those_of_the_image() -> None:
    """The container, the service, the probes and the policy name the port that the image sets."""
    port = int(re.findall(r"LARDER_PORT=(\d+)", _DOCKERFILE)[0])
    assert _container()["ports"] == [{"name": "http", "containerPort": port}]
    assert [item["targetPort"] for item in _one("Service")["spec"]["ports"]] == ["http"]
    assert [rule["ports"] for rule in _one("NetworkPolicy")["spec"]["ingress"]] == [[{"protocol": "TCP", "port": port}]]
    [endpoint] = _one("ServiceMonitor", "monitoring")["spec"]["endpoints"]
    assert endpoint["port"] in {item["name"] for item in _one("Service")["spec"]["ports"]}


def test_probes_are_endpoints_that_need_no_key_and_no_host() -> None:
    """Liveness does not depend on PostgreSQL, and readiness waits longer than the service for it."""
    container = _container()
    probes = {name: container[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    assert {probe["httpGet"]["path"] for probe in probes.values()} == PROBES
    assert probes["startup"]["httpGet"]["path"] == probes["liveness"]["httpGet"]["path"] == "/livez"
    assert probes["readiness"]["timeoutSeconds"] * 1_000 > Settings.from_env({}).database_connect_timeout_ms


def test_grace_covers_the_longest_request() -> None:
    """A pod is killed only after the pause, the deadline of a request, and the time in which the parent kills its workers."""
    command = _container()["lifecycle"]["preStop"]["exec"]["command"]
    assert command[0] == "sleep"
    settings = Settings.from_env(_one("ConfigMap")["data"])
    assert _pod()["terminationGracePeriodSeconds"] > int(command[1]) + grace_s(settings) + _CLOSING_S


def test_settings_are_settings() -> None:
    """The config map is a valid environment, and the key file that it names is in a mounted secret."""
    data = _one("ConfigMap")["data"]
    settings = Settings.from_env(data)
    assert {name.removeprefix(PREFIX).lower() for name in data} <= Settings.model_fields.keys()
    assert settings.access == "keys"
    assert str(Path(settings.keys_file).parent) in {mount["mountPath"] for mount in _container()["volumeMounts"]}
    assert [source["configMapRef"]["name"] for source in _container()["envFrom"]] == [_one("ConfigMap")["metadata"]["name"]]


@pytest.mark.parametrize(("kind", "directory"), [("Deployment", ""), ("Job", "expand"), ("Job", "finish")])
def test_passwords_are_files_where_they_are_read(kind: str, directory: str) -> None:
    """Both URLs come from secrets mounted where `with-urls` reads them, for the account of the image, and from nowhere else."""
    container, pod = _container(kind, directory), _pod(kind, directory)
    assert container["command"][0] == "with-urls"
    secrets = {volume["name"]: volume["secret"] for volume in pod["volumes"] if "secret" in volume}
    mounted = {mount["mountPath"]: secrets[mount["name"]] for mount in container["volumeMounts"] if mount["name"] in secrets}
    for server in passwords.SERVERS:
        assert mounted[f"{passwords.DIRECTORY}/{server}"]["secretName"] == f"larder-{server}"
    account = int(re.findall(r"^USER (\d+):", _DOCKERFILE, re.MULTILINE)[0])
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == account
    assert "env" not in container


def test_upgrade_expands_before_and_finishes_after() -> None:
    """The service does not migrate by itself; the two Jobs do, with the image of the service."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert _container()["command"] == ["with-urls", "larder", "serve"]
    assert _container("Job", "expand")["command"] == ["with-urls", "larder", "migrate"]
    assert _container("Job", "finish")["command"] == ["with-urls", "larder", "migrate", "--finish"]
    images = {_container()["image"], _container("Job", "expand")["image"], _container("Job", "finish")["image"]}
    assert images == {f"registry.example/larder:{version}"}


def test_selectors_select() -> None:
    """The service, the budget, the policy and the monitor select the pods, or the service, that they are about."""
    labels = _one("Deployment")["spec"]["template"]["metadata"]["labels"]
    policy = _one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
    for selector in (
        _one("Deployment")["spec"]["selector"]["matchLabels"],
        _one("Service")["spec"]["selector"],
        _one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        policy,
        *(spread["labelSelector"]["matchLabels"] for spread in _pod()["topologySpreadConstraints"]),
    ):
        assert selector.items() <= labels.items()
    for directory in ("expand", "finish"):
        job = _one("Job", directory)["spec"]["template"]["metadata"]["labels"]
        assert policy.items() <= job.items()
        assert not _one("Service")["spec"]["selector"].items() <= job.items()
    monitor = _one("ServiceMonitor", "monitoring")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= _one("Service")["metadata"]["labels"].items()
    assert _one("Service")["metadata"]["labels"][monitor["jobLabel"]] == "larder", "the alert rules select this job"
    assert _one("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == _one("Deployment")["metadata"]["name"]
