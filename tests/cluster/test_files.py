"""The files of cluster/, each checked by what reads it in earnest, or by the nearest to that which needs no network.

KubeRay's own schemas are in no package. What of a manifest is Kubernetes' is checked against its schemas, what is
Serve's and ours by Serve and by us, and the few keys between them against the list below, of KubeRay's v1 types.
"""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import botocore.validate
import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from policy_sentry.querying.actions import get_action_data
from policy_sentry.util.arns import ARN
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from dist_attr.config import RunConfig, ServiceConfig

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
KUBERNETES = "1.34"

KUBERAY = {
    "RayJob": {
        "activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint",
        "entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "jobId", "managedBy", "metadata",
        "rayClusterSpec", "runtimeEnvYAML", "shutdownAfterJobFinishes", "submissionMode", "submitterConfig",
        "submitterPodTemplate", "suspend", "ttlSecondsAfterFinished",
    },
    "RayService": {"rayClusterConfig", "serveConfigV2", "serveService", "upgradeStrategy"},
    "cluster": {
        "authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions",
        "headGroupSpec", "headServiceAnnotations", "managedBy", "rayVersion", "suspend", "workerGroupSpecs",
    },
    "head": {"enableIngress", "headService", "rayStartParams", "serviceType", "template"},
    "workers": {
        "groupName", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams", "replicas", "scaleStrategy",
        "suspend", "template",
    },
}  # fmt: skip
"""Keys of a spec; those of KubeRay that are deprecated are left out."""


def manifests(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / name).read_text("utf-8")))


def manifest(name: str) -> dict[str, Any]:
    (found,) = (one for one in manifests(name) if one["apiVersion"].startswith("ray.io"))
    return found


def check_manifest(manifest: dict[str, Any]) -> None:
    """Raises AssertionError or a validation error of the part that is wrong."""
    assert manifest["apiVersion"] == "ray.io/v1" and set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
    spec = manifest["spec"]
    assert set(spec) <= KUBERAY[manifest["kind"]], set(spec) - KUBERAY[manifest["kind"]]
    cluster = cluster_of(manifest)
    assert set(cluster) <= KUBERAY["cluster"], set(cluster) - KUBERAY["cluster"]
    assert {"rayStartParams", "template"} <= set(cluster["headGroupSpec"]) <= KUBERAY["head"]
    for group in cluster["workerGroupSpecs"]:
        assert {"groupName", "rayStartParams", "template"} <= set(group) <= KUBERAY["workers"], group
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in groups_of(cluster):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **group["template"]}
        kubernetes_validate.validate(copy.deepcopy(pod), KUBERNETES, strict=True)
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", ())}
        for container in pod["spec"]["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes


def cluster_of(manifest: dict[str, Any]) -> dict[str, Any]:
    spec = manifest["spec"]
    found: dict[str, Any] = spec["rayClusterSpec" if manifest["kind"] == "RayJob" else "rayClusterConfig"]
    return found


def groups_of(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


@pytest.mark.parametrize("name", ["rayjob.yaml", "rayservice.yaml"])
def test_a_manifest_is_one_of_kuberay(name: str) -> None:
    for one in manifests(name):
        if one["apiVersion"].startswith("ray.io"):
            check_manifest(one)
        else:
            kubernetes_validate.validate(one, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    "path",
    [
        ("spec", "entrypont"),
        ("spec", "rayClusterSpec", "headGroup"),
        ("spec", "rayClusterSpec", "headGroupSpec", "replicas"),
        ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxWorkers"),
        ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "container"),
        ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "ports", 0, "port"),
    ],
)
def test_a_slip_in_a_manifest_is_found(path: tuple[str | int, ...]) -> None:
    broken: Any = manifest("rayjob.yaml")
    part = broken
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = 1
    with pytest.raises((AssertionError, kubernetes_validate.ValidationError)):
        check_manifest(broken)


@pytest.mark.parametrize("name", ["rayjob.yaml", "rayservice.yaml"])
def test_what_ray_makes_of_the_groups(name: str) -> None:
    """Ray's own reading of the manifest: what its scheduler will believe each group has."""
    read = _derive_autoscaling_config_from_ray_cr(
        {"metadata": {"name": "x", "namespace": "y"}, "spec": cluster_of(manifest(name))}
    )
    head, workers = read["available_node_types"].values()
    assert head["resources"]["CPU"] == 0, "work on the head is lost with the cluster"
    assert workers["resources"]["CPU"] == 4
    assert workers["resources"].get("GPU", 0) == (1 if name == "rayjob.yaml" else 0)
    assert workers["min_workers"] == workers["max_workers"] == 2


@pytest.mark.parametrize("name", ["rayjob.yaml", "rayservice.yaml"])
def test_no_pod_has_more_rights_than_it_needs(name: str) -> None:
    cluster = cluster_of(manifest(name))
    assert cluster["authOptions"] == {"mode": "token"}
    for group in groups_of(cluster):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True and pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]
            assert all("value" not in variable for variable in container.get("env", ())), "a secret as plain text?"


def test_the_job_runs_a_valid_run_on_the_workers_it_has(tmp_path: Path) -> None:
    config_map, job = manifests("rayjob.yaml")
    (tmp_path / "run.yaml").write_text(config_map["data"]["run.yaml"])
    config = RunConfig.load(tmp_path / "run.yaml")
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert config.cluster.workers == workers["replicas"]
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (mount,) = (mount for mount in head["containers"][0]["volumeMounts"] if mount["name"] == "run")
    assert f"dist-attr simulate {mount['mountPath']}/run.yaml" in job["spec"]["entrypoint"]
    assert {"name": "run", "configMap": {"name": config_map["metadata"]["name"]}} in head["volumes"]
    parking = workers["template"]["spec"]["containers"][0]["volumeMounts"]
    assert config.simulation.parking in [mount["mountPath"] for mount in parking]


def serve_configs() -> Iterator[Any]:
    yield yaml.safe_load((CLUSTER / "serve.yaml").read_text("utf-8"))
    yield yaml.safe_load(manifest("rayservice.yaml")["spec"]["serveConfigV2"])


@pytest.mark.parametrize("config", serve_configs(), ids=["serve.yaml", "rayservice.yaml"])
def test_what_is_served_is_valid(config: Any) -> None:
    (application,) = ServeDeploySchema.model_validate(config).applications
    assert isinstance(application, ServeApplicationSchema)
    assert application.import_path == "dist_attr.serving:application"
    ServiceConfig.parse(application.args)


@pytest.fixture(params=["aws.yaml", "gcp.yaml", "on-premise.yaml"])
def launcher(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CLUSTER / request.param).read_text("utf-8"))
    return found


def test_a_launcher_file_is_one_of_ray(launcher: dict[str, Any]) -> None:
    validate_config(prepare_config(launcher))


def test_a_slip_in_a_launcher_file_is_found(launcher: dict[str, Any]) -> None:
    for part in ("docker", "auth"):
        with pytest.raises(jsonschema.ValidationError, match="Additional properties are not allowed"):
            validate_config(prepare_config({**launcher, part: {**launcher[part], "slip": "x"}}))


def test_no_head_does_work_and_no_dashboard_is_open(launcher: dict[str, Any]) -> None:
    start = " ".join(launcher["head_start_ray_commands"])
    types = launcher.get("available_node_types", {})
    assert "--num-cpus=0" in start or types[launcher["head_node_type"]]["resources"] == {"CPU": 0}
    assert "--dashboard-host=127.0.0.1" in start


def test_ec2_would_take_the_machines() -> None:
    """EC2's own model of the request, as far as names and types go."""
    service = botocore.session.Session().get_service_model("ec2")
    shape = service.operation_model("RunInstances").input_shape
    types = yaml.safe_load((CLUSTER / "aws.yaml").read_text("utf-8"))["available_node_types"]
    for name, node in types.items():
        asked = {**node["node_config"], "MinCount": 1, "MaxCount": 1}
        report = botocore.validate.ParamValidator().validate(asked, shape)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"


def test_the_image() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, CLUSTER / "Dockerfile"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout
    broken = (CLUSTER / "Dockerfile").read_text("utf-8").replace("--no-install-recommends ", "")
    done = subprocess.run([hadolint, "-"], input=broken, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1 and "DL3015" in done.stdout


def test_the_image_is_made_of_what_is_let_into_it() -> None:
    sent = (CLUSTER / "Dockerfile").read_text("utf-8")
    copied = {word for line in re.findall(r"(?m)^COPY (.+)$", sent) for word in line.split()[:-1]}
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)


def test_versions_are_those_of_the_package() -> None:
    """Ray refuses nodes of another version, and KubeRay has to know it."""
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines())
    assert pinned["ray"] == ray.__version__
    for name in ("rayjob.yaml", "rayservice.yaml"):
        assert cluster_of(manifest(name))["rayVersion"] == pinned["ray"]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    for file in CLUSTER.iterdir():
        for tag in re.findall(r"registry\.example/dist_attr:(\S+?)(?:-gpu)?$", file.read_text("utf-8"), re.MULTILINE):
            assert tag == version, file.name
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert re.findall(r"uv==(\S+)", (CLUSTER / "Dockerfile").read_text()) == re.findall(
        r"UV_VERSION := (\S+)", makefile
    )


def several(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value]


def wrong_in(policy: dict[str, Any]) -> list[str]:
    """What AWS's own table of S3's actions does not know: an action, or one on a resource of another kind."""
    found = [] if policy["Version"] == "2012-10-17" else ["Version"]
    for statement in policy["Statement"]:
        if set(statement) != {"Sid", "Effect", "Action", "Resource"} or statement["Effect"] != "Allow":
            found.append(str(statement["Sid"]))
        for action in several(statement["Action"]):
            service, name = action.split(":")
            known = (get_action_data(service, name) or {}).get(service, [])
            formats = [row["resource_arn_format"] for row in known if row["resource_arn_format"] != "*"]
            found += [
                f"{action} on {resource}"
                for resource in several(statement["Resource"])
                if not any(ARN(resource).same_resource_type(form) for form in formats)
            ]
    return found


def test_the_policy_is_one_of_s3() -> None:
    text = (CLUSTER / "s3-policy.json").read_text("utf-8")
    assert wrong_in(json.loads(text)) == []
    misspelt = json.loads(text.replace("s3:GetObject", "s3:GetObjekt"))
    assert "s3:GetObjekt on arn:aws:s3:::dist-attr-runs/runs/*" in wrong_in(misspelt)
    of_a_bucket = json.loads(text.replace("/runs/*", ""))
    assert "s3:PutObject on arn:aws:s3:::dist-attr-runs" in wrong_in(of_a_bucket)


def test_the_policy_gives_what_runs_need_and_no_more() -> None:
    """Nothing may change a bucket or see another one, and documents and models may not be written."""
    for statement in json.loads((CLUSTER / "s3-policy.json").read_text("utf-8"))["Statement"]:
        actions, resources = several(statement["Action"]), several(statement["Resource"])
        assert not any("*" in action for action in actions)
        assert all(resource.startswith("arn:aws:s3:::dist-attr-runs") for resource in resources)
        if set(actions) - {"s3:GetObject", "s3:ListBucket"}:
            assert all(resource.endswith("/runs/*") for resource in resources)
