"""A schema registry of a few lines: Confluent's REST paths, on 127.0.0.1."""

import base64
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Registry:
    """Schemas by number, by TLS with a file of certificate and key; `away` answers 503, `credentials` are asked for if there are any."""

    def __init__(self, certificate=None):
        self.schemas, self.subjects, self.asked = {}, {}, []
        self.away, self.credentials = False, None
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                registry.asked.append(self.path)
                status, body = registry.answer(self.path, self.headers.get("Authorization"))
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.scheme = "https" if certificate else "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.server.server_port}"

    def add(self, number, schema, kind=None, references=(), subject=None):
        text = schema if isinstance(schema, str) else json.dumps(schema)
        self.schemas[number] = {"schema": text}
        if kind:
            self.schemas[number]["schemaType"] = kind
        if references:
            self.schemas[number]["references"] = [{"name": n, "subject": s, "version": v} for n, s, v in references]
        if subject:
            self.subjects[subject] = number

    def answer(self, path, authorization):
        if self.away:
            return 503, {"error_code": 50003, "message": "away"}
        if self.credentials:
            wanted = "Basic " + base64.b64encode(":".join(self.credentials).encode()).decode()
            if authorization != wanted:
                return 401, {"error_code": 401, "message": "Unauthorized"}
        words = path.strip("/").split("/")
        if words[:2] == ["schemas", "ids"] and len(words) == 3:
            found = self.schemas.get(int(words[2]))
            return (200, found) if found else (404, {"error_code": 40403, "message": "Schema not found"})
        if words[0] == "subjects" and words[2] == "versions" and words[1] in self.subjects:
            return 200, self.schemas[self.subjects[words[1]]]
        return 404, {"error_code": 40401, "message": "Subject not found"}

    def close(self):
        self.server.shutdown()
        self.server.server_close()
