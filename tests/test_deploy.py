"""What stands in deploy/: by schemas and linters of what reads it, as far as they are here, and run where it can."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from house import ROOT
from patience import PATIENCE_SECONDS

from moesaic.kernels.cache import cache_folder
from moesaic.models.version import VERSION
from moesaic.server.config import configuration
from moesaic.server.options import ServeOptions, check

DEPLOY = ROOT / "deploy"
KUBERNETES = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
UNIT = (DEPLOY / "moesaic.service").read_text()
ENVOY = yaml.safe_load((DEPLOY / "envoy.yaml").read_text())


def of_kind(kind: str) -> Any:
    [found] = [each for each in KUBERNETES if each["kind"] == kind]
    return found


POD = of_kind("Deployment")["spec"]["template"]["spec"]
[CONTAINER] = POD["containers"]


def served(text: str, tmp_path: Path) -> ServeOptions:
    """The options of a settings file, in which nothing is wrong."""
    (tmp_path / "serve.yaml").write_text(text)
    options = configuration({}, {}, tmp_path / "serve.yaml").options
    check(options)
    return options


# --- by what reads it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manifest", KUBERNETES, ids=lambda manifest: manifest["kind"])
def test_every_manifest_is_of_kubernetes_schema(manifest: Any) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="needs the extra deploy")
    for version in ("1.31", "1.33"):
        kubernetes_validate.validate(manifest, version, strict=True)


def types_of(values: Any) -> set[str]:
    """The types that @type names anywhere."""
    inner = list(values.values()) if isinstance(values, dict) else values if isinstance(values, list) else []
    own = {values["@type"].rpartition("/")[2]} if isinstance(values, dict) and "@type" in values else set[str]()
    return own.union(*map(types_of, inner))


def test_envoys_file_is_of_envoys_schema() -> None:
    """Every message and field, those in extensions too."""
    bootstrap = pytest.importorskip("envoy.config.bootstrap.v3.bootstrap_pb2", reason="needs what make deploy fetches")
    for name in types_of(ENVOY):
        package, _, message = name.rpartition(".")
        stem = {"UpstreamTlsContext": "tls", "DownstreamTlsContext": "tls"}.get(message)
        stem = stem or re.sub(r"(?<!^)(?=[A-Z])", "_", message).lower().removesuffix("_predicate")
        importlib.import_module(f"{package}.{stem}_pb2")
    json_format.ParseDict(ENVOY, bootstrap.Bootstrap())
    with pytest.raises(json_format.ParseError):
        json_format.ParseDict({**ENVOY, "static_resourses": {}}, bootstrap.Bootstrap())


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("needs the extra deploy")
    done = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_systemd_knows_all_that_the_unit_says(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    unit = tmp_path / "moesaic.service"
    unit.write_text(UNIT.replace("/opt/moesaic/bin/moesaic", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# --- against our own words -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [(DEPLOY / "serve.yaml").read_text(), of_kind("ConfigMap")["data"]["serve.yaml"]])
def test_the_settings_start_a_public_server_with_tls_and_tokens(text: str, tmp_path: Path) -> None:
    options = served(text, tmp_path)
    assert options.host == "0.0.0.0" and options.tls_cert and options.tls_key and options.tokens


def test_every_probe_asks_the_port_that_answers_without_tls(tmp_path: Path) -> None:
    options = served(of_kind("ConfigMap")["data"]["serve.yaml"], tmp_path)
    probes = [CONTAINER[f"{name}Probe"]["grpc"] for name in ("startup", "readiness", "liveness")]
    assert probes == [{"port": options.health_port}] * 3
    ports = {each["name"]: each["containerPort"] for each in CONTAINER["ports"]}
    assert ports == {"grpc": options.port, "http": options.http_port, "health": options.health_port}
    assert f"EXPOSE {options.port} {options.http_port} {options.health_port}\n" in DOCKERFILE
    let_in = [each["port"] for each in of_kind("NetworkPolicy")["spec"]["ingress"][0]["ports"]]
    assert let_in == [each["port"] for each in of_kind("Service")["spec"]["ports"]] == [options.port, options.http_port]


def test_whoever_ends_a_server_waits_for_its_drain(tmp_path: Path) -> None:
    drain = served(of_kind("ConfigMap")["data"]["serve.yaml"], tmp_path).drain_seconds
    pause = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert POD["terminationGracePeriodSeconds"] >= pause + drain + 10
    assert int(re.findall(r"TimeoutStopSec=(\d+)", UNIT)[0]) >= drain + 10


def test_files_of_settings_are_where_something_is_mounted(tmp_path: Path) -> None:
    options = served(of_kind("ConfigMap")["data"]["serve.yaml"], tmp_path)
    mounted = [Path(each["mountPath"]) for each in CONTAINER["volumeMounts"]]
    named = [options.tls_cert, options.tls_key, options.tokens, options.models[0][1], CONTAINER["args"][1]]
    assert [name for name in named if not any(Path(str(name)).is_relative_to(each) for each in mounted)] == []


def test_keys_and_tokens_are_mounted_so_that_others_may_not_read_them() -> None:
    volumes = [each["secret"]["defaultMode"] for each in POD["volumes"] if "secret" in each]
    assert volumes == [0o440, 0o440] and POD["securityContext"]["fsGroup"] == 10001


def test_nothing_runs_as_root_or_may_become_it() -> None:
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
    assert POD["securityContext"]["runAsNonRoot"] and POD["securityContext"]["runAsUser"] == 10001
    own = CONTAINER["securityContext"]
    assert (
        own["readOnlyRootFilesystem"] and not own["allowPrivilegeEscalation"] and own["capabilities"]["drop"] == ["ALL"]
    )
    assert "\nUser=moesaic\n" in UNIT and "\nProtectSystem=strict\n" in UNIT and "\nCapabilityBoundingSet=\n" in UNIT


def test_the_image_is_of_this_version_and_is_told_what_the_command_takes() -> None:
    assert CONTAINER["image"] == f"moesaic:{VERSION}"
    command = [*json.loads(re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE)[0])[1:], *CONTAINER["args"]]
    assert command == ["serve", "--config", "/etc/moesaic/serve.yaml"]
    assert " ".join(["ExecStart=/opt/moesaic/bin/moesaic", *command]) in UNIT


def test_all_that_goes_into_the_image_is_there() -> None:
    copied = [
        name for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE) for name in line.split()[:-1]
    ]
    assert copied and all((ROOT / name).exists() for name in copied)
    torch = re.findall(r"torch==\S+", DOCKERFILE)
    assert torch and {*torch} <= {*(ROOT / "constraints.txt").read_text().split()}


def test_selectors_choose_the_pods_that_there_are() -> None:
    labels = of_kind("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert of_kind("Service")["spec"]["selector"] == labels
    for kind, path in (
        ("Deployment", "selector"),
        ("PodDisruptionBudget", "selector"),
        ("NetworkPolicy", "podSelector"),
    ):
        assert of_kind(kind)["spec"][path] == {"matchLabels": labels}


def test_envoy_asks_servers_as_their_settings_say(tmp_path: Path) -> None:
    [cluster] = ENVOY["static_resources"]["clusters"]
    [endpoint] = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    address = endpoint["endpoint"]["address"]["socket_address"]
    assert address["port_value"] == served((DEPLOY / "serve.yaml").read_text(), tmp_path).port
    assert cluster["health_checks"][0]["grpc_health_check"] == {} and cluster["lb_policy"] == "LEAST_REQUEST"


# --- run -----------------------------------------------------------------------------------------------------------

READ_ONLY = """
mount --make-rprivate / && mount -o remount,bind,ro /
for each in $(findmnt --raw --noheadings --output TARGET --types noproc,nosysfs,nodevpts,nodevtmpfs); do
    mount -o remount,bind,ro "$each" 2> /dev/null
done
mount -t tmpfs -o size=64m tmpfs /var/tmp
exec setpriv --no-new-privs --bounding-set -all --inh-caps -all "$@"
"""


def test_a_server_runs_on_a_read_only_root_without_capabilities() -> None:
    """As the container of the manifests has it, with one folder to write in; no container engine is needed."""
    if subprocess.run(["unshare", "--mount", "mount", "--make-rprivate", "/"], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    code = (
        "import os, sys; os.access('/etc', os.W_OK) and sys.exit('writable'); from moesaic.cli.main import main; main()"
    )
    words = ["serve", "stories260k", "--port", "0", "--health-port", "0"]
    command = ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", sys.executable, "-c", code, *words]
    built = (cache_folder() / "native").resolve()
    environment = {**os.environ, "HOME": "/nonexistent", "TMPDIR": "/var/tmp", "MOESAIC_CACHE": str(built.parent)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        printed = ""
        for line in process.stdout or ():
            printed += line
            if line.startswith("serving stories260k"):
                break
        process.terminate()
        assert "serving stories260k on 127.0.0.1:" in printed and process.wait(PATIENCE_SECONDS) == 0
