"""What is not known refuses a pod: so all that the newest Kubernetes may write into one is known, and read by a rule or not."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
from pydantic.alias_generators import to_camel

from injector import pods
from kube_schemas import NEWEST

FOLDER = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{NEWEST}-local"
DEFINITIONS = json.loads((FOLDER / "_definitions.json").read_text())["$defs"]
READ = {
    "Capabilities": pods.Capabilities,
    "Container": pods.Container,
    "EnvFromSource": pods.EnvFrom,
    "EnvVar": pods.EnvVar,
    "EnvVarSource": pods.EnvSource,
    "GRPCAction": pods.GrpcCall,
    "HTTPGetAction": pods.HttpGet,
    "Lifecycle": pods.Lifecycle,
    "LifecycleHandler": pods.Handler,
    "PodSecurityContext": pods.PodSecurityContext,
    "PodSpec": pods.Spec,
    "Probe": pods.Probe,
    "SELinuxOptions": pods.SeLinux,
    "SecurityContext": pods.SecurityContext,
    "TCPSocketAction": pods.TcpSocket,
    "VolumeDevice": pods.Device,
    "VolumeMount": pods.Mount,
    "VolumeProjection": pods.Projection,
}


def test_every_strict_part_of_a_pod_is_compared():
    strict = {model for model in vars(pods).values() if isinstance(model, type) and issubclass(model, pods._Known)}
    assert strict - {pods._Known, pods.Pod} == set(READ.values())


@pytest.mark.parametrize(("kind", "model"), READ.items(), ids=READ)
def test_every_field_of_the_newest_kubernetes_is_known(kind, model):
    (name,) = [name for name in DEFINITIONS if name.endswith(f"core.v1.{kind}")]
    known = {field.alias or to_camel(member) for member, field in model.model_fields.items()}
    assert DEFINITIONS[name]["properties"].keys() == known
