"""A Service as a real Envoy that has its address: TCP to those endpoints whose health service says so.

An endpoint comes when it is added and answers SERVING; it goes when it is removed (a deleted pod, some time after its
deletion as in a cluster) or says NOT_SERVING. Connections that stand are left to their ends, as by kube-proxy.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pods import World
from stack import until

PROGRAM = Path(sys.executable).with_name("envoy")
ADMIN = 9901


class Service:
    """One Service of one port; `health` is where its endpoints answer probes."""

    def __init__(self, world: World, namespace: str, name: str, port: int, health: int, service: str = "ready") -> None:
        self._folder = world.folder / f"envoy-{name}"
        self._folder.mkdir()
        network, self.address = world.network.add()
        self._port, self._health = port, health
        self._endpoints: dict[str, None] = {}
        self._write()
        config = self._folder / "envoy.json"
        config.write_text(json.dumps(_config(self._folder, port, service)))
        log = (self._folder / "log").open("wb")
        self._popen = subprocess.Popen(
            [
                *("nsenter", f"--net=/run/netns/{network}", str(PROGRAM), "--config-path", str(config)),
                *("--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        world.at_end(self.close)
        world.name(namespace, name, self.address, [{"name": "grpc", "port": port}])
        until(lambda: self._ask("/ready") == b"LIVE\n", 20, f"Envoy up (see {self._folder / 'log'})")

    @property
    def healthy(self) -> set[str]:
        """The addresses that new connections go to."""
        status = json.loads(self._ask("/clusters?format=json") or b"{}")
        return {
            host["address"]["socket_address"]["address"]
            for cluster in status.get("cluster_statuses", ())
            for host in cluster.get("host_statuses", ())
            if host["health_status"].get("eds_health_status") == "HEALTHY"
            and not any(key.startswith(("failed", "pending")) for key in host["health_status"])
        }

    def add(self, address: str) -> None:
        """Add an endpoint, and wait until connections go to it."""
        self._endpoints[address] = None
        self._write()
        until(lambda: address in self.healthy, 20, f"{address} healthy", every_s=0.05)

    def remove(self, address: str) -> None:
        """Take an endpoint away, and wait until no new connection goes to it."""
        self._endpoints.pop(address, None)
        self._write()
        until(lambda: address not in self.healthy, 10, f"{address} gone", every_s=0.05)

    def close(self) -> None:
        """End it."""
        self._popen.kill()
        self._popen.wait()

    def _ask(self, path: str) -> bytes:
        try:
            with urllib.request.urlopen(f"http://{self.address}:{ADMIN}{path}", timeout=2) as answer:
                return bytes(answer.read())
        except OSError:
            return b""

    def _write(self) -> None:
        endpoints = [
            {
                "endpoint": {
                    "address": _address(ip, self._port),
                    "health_check_config": {"port_value": self._health},
                }
            }
            for ip in self._endpoints
        ]
        kind = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
        found = {"@type": kind, "cluster_name": "endpoints", "endpoints": [{"lb_endpoints": endpoints}]}
        fresh = self._folder / "eds.tmp"
        fresh.write_text(json.dumps({"version_info": str(time.monotonic_ns()), "resources": [found]}))
        fresh.rename(self._folder / "eds.json")


def _address(ip: str, port: int) -> Mapping[str, Any]:
    return {"socket_address": {"address": ip, "port_value": port}}


def _config(folder: Path, port: int, service: str) -> Mapping[str, Any]:
    extensions = "type.googleapis.com/envoy.extensions"
    proxy = {
        "@type": f"{extensions}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "service",
        "cluster": "endpoints",
    }
    listener = {
        "name": "service",
        "address": _address("0.0.0.0", port),
        "filter_chains": [{"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]}],
    }
    http2 = {
        "@type": f"{extensions}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    eds = folder / "eds.json"
    cluster = {
        "name": "endpoints",
        "type": "EDS",
        "connect_timeout": "1s",
        "lb_policy": "ROUND_ROBIN",
        "ignore_health_on_host_removal": True,
        "eds_cluster_config": {
            "eds_config": {"path_config_source": {"path": str(eds)}, "resource_api_version": "V3"},
        },
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        # Nobody is sent to a decision point that is not healthy, not even when all of them are.
        # A change of health reaches those who connect at once, as one of membership does.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"},
        "health_checks": [
            {
                "timeout": "1s",
                "interval": "0.2s",
                "no_traffic_interval": "0.2s",
                "unhealthy_threshold": 1,
                "healthy_threshold": 1,
                "grpc_health_check": {"service_name": service},
            }
        ],
    }
    return {
        "node": {"id": "service", "cluster": "service"},
        "admin": {"address": _address("0.0.0.0", ADMIN)},
        "static_resources": {"listeners": [listener], "clusters": [cluster]},
    }
