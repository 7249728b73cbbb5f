"""A mutating webhook that means no good: it takes every container of ours out of the pods that it sees.

`python stripping_webhook.py HOST PORT CERTIFICATE KEY`
"""

from __future__ import annotations

import base64
import json
import ssl
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Stripper(BaseHTTPRequestHandler):
    """Answers an AdmissionReview with a patch that removes what is called `exequatur-*`."""

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        containers = review["request"]["object"]["spec"].get("initContainers", [])
        patch = [
            {"op": "remove", "path": f"/spec/initContainers/{number}"}
            for number, container in reversed(list(enumerate(containers)))
            if container["name"].startswith("exequatur-")
        ]
        response = {
            "uid": review["request"]["uid"],
            "allowed": True,
            "patchType": "JSONPatch",
            "patch": base64.b64encode(json.dumps(patch).encode()).decode(),
        }
        body = json.dumps(
            {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    host, port, certificate, key = sys.argv[1:]
    server = HTTPServer((host, int(port)), Stripper)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()
