"""An API server with one node, as far as `sublet kube` uses it: over HTTP, on a free port.

It keeps what a real one keeps: resource versions, who owns which label by server-side apply, the
history that a watch resumes from. And it fails as a test asks it to.

    with ApiServer("gpu-1") as server:
        server.label("nvidia.com/mig.config", "all-balanced")
        subprocess.run([..., "--api-server", server.url, "--node-name", "gpu-1"])
        server.wait_for(lambda node: node["labels"].get(...) == "success")
"""

import copy
import http.server
import json
import threading
import time
import urllib.parse

PATIENCE_S = 60


class ApiServer:
    def __init__(self, name, has_node_features=True):
        self.name = name
        self.has_node_features = has_node_features
        self.changed = threading.Condition()
        self.version = 100
        self.node = {"labels": {"kubernetes.io/hostname": name}, "annotations": {}}
        self.applied = {}       # By manager: the labels that are its own.
        self.history = []       # (version, node as it was then)
        self.oldest = 100       # A watch from before it is too late: 410.
        self.features = {}      # NodeFeature objects by path.
        self.events = []
        self.pods = []          # (app, namespace, name)
        self.requests = []
        self.token = None       # Only this one is let in.
        self.away = False       # Everything is answered with 503.
        self.away_after = None  # ... once the state of MIG is this one.
        self.refused = None     # This path is answered with 403.
        self.closing = False
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self):
                outer.answer(self)

            do_GET = do_PATCH = do_POST = do_DELETE = answer

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        # Clients that are killed are part of the tests.
        self.server.handle_error = lambda *_: None
        self.url = "http://127.0.0.1:%d" % self.server.server_address[1]

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        self.server.shutdown()
        self.server.server_close()

    # What a test does to the cluster.

    def label(self, name, value):
        with self.changed:
            self.change_texts({"labels": {name: value}})
            self.commit()

    def wait_for(self, condition, what="the node"):
        """Until `condition` holds of the node's metadata."""
        end = time.monotonic() + PATIENCE_S
        with self.changed:
            while not condition(self.node):
                left = end - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"waited in vain for {what}: {self.node}")
                self.changed.wait(left)

    def forget_history(self):
        with self.changed:
            self.history = []
            self.oldest = self.version + 1
            self.changed.notify_all()

    # What it answers.

    def object(self, node=None, version=None):
        return {"apiVersion": "v1", "kind": "Node",
                "metadata": {"name": self.name, "uid": "uid-of-" + self.name,
                             "resourceVersion": str(version or self.version),
                             **copy.deepcopy(node or self.node)}}

    def commit(self):
        self.version += 1
        self.history.append((self.version, copy.deepcopy(self.node)))
        self.changed.notify_all()

    def change_texts(self, metadata):
        for kind in ("labels", "annotations"):
            for name, value in metadata.get(kind, {}).items():
                if value is None:
                    self.node[kind].pop(name, None)
                else:
                    self.node[kind][name] = value

    def send(self, handler, status, value):
        body = json.dumps(value).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def refuse(self, handler, status, message):
        self.send(handler, status, {"kind": "Status", "code": status, "message": message})

    def answer(self, handler):
        length = int(handler.headers.get("Content-Length", 0))
        body = json.loads(handler.rfile.read(length)) if length else None
        url = urllib.parse.urlsplit(handler.path)
        query = {k: v[0] for k, v in urllib.parse.parse_qs(url.query).items()}
        with self.changed:
            self.requests.append((handler.command, handler.path, body))
            self.changed.notify_all()
            if self.away:
                return self.refuse(handler, 503, "the server is away")
            if self.token and handler.headers.get("Authorization") != "Bearer " + self.token:
                return self.refuse(handler, 401, "Unauthorized")
            if url.path == self.refused:
                return self.refuse(handler, 403, "forbidden")
            if query.get("watch") != "1":
                return self.answer_one(handler, url.path, query, body)
        return self.watch(handler, int(query["resourceVersion"]))

    def answer_one(self, handler, path, query, body):
        if path == "/api/v1/nodes":
            return self.send(handler, 200, {"metadata": {"resourceVersion": str(self.version)},
                                            "items": [self.object()]})
        if path == "/api/v1/nodes/" + self.name:
            if handler.command == "PATCH":
                return self.patch(handler, query, body)
            return self.send(handler, 200, self.object())
        if path.endswith("/pods"):
            apps = query["labelSelector"].removeprefix("app in (").removesuffix(")").split(",")
            items = [{"metadata": {"namespace": namespace, "name": name}}
                     for app, namespace, name in self.pods if app in apps]
            return self.send(handler, 200, {"items": items})
        if path.endswith("/events") and handler.command == "POST":
            self.events.append(body)
            self.changed.notify_all()
            return self.send(handler, 201, body)
        if "/nodefeatures/" in path and self.has_node_features:
            if handler.command == "DELETE":
                return self.send(handler, 200, self.features.pop(path, {}))
            self.features[path] = body
            self.changed.notify_all()
            return self.send(handler, 200, body)
        return self.refuse(handler, 404, "the server could not find the requested resource")

    def patch(self, handler, query, body):
        metadata = body["metadata"]
        kind = handler.headers["Content-Type"]
        before = copy.deepcopy(self.node)
        if kind == "application/apply-patch+yaml":
            if metadata.get("uid", "uid-of-" + self.name) != "uid-of-" + self.name:
                return self.refuse(handler, 409, "Precondition failed: UID")
            manager = query["fieldManager"]
            labels = metadata.get("labels", {})
            for name in self.applied.get(manager, set()) - set(labels):
                if not any(name in own for other, own in self.applied.items() if other != manager):
                    self.node["labels"].pop(name, None)
            self.applied[manager] = set(labels)
            self.change_texts({"labels": labels})
        elif kind == "application/merge-patch+json":
            if metadata.get("resourceVersion", str(self.version)) != str(self.version):
                return self.refuse(handler, 409, "the object has been modified")
            self.change_texts(metadata)
        else:
            return self.refuse(handler, 415, "unsupported media type")
        if self.node != before:
            self.commit()
        state = self.node["labels"].get("nvidia.com/mig.config.state")
        self.away = self.away_after is not None and state == self.away_after
        return self.send(handler, 200, self.object())

    def watch(self, handler, version):
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()

        def line(value):
            data = json.dumps(value).encode() + b"\n"
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

        try:
            with self.changed:
                while not self.closing and not self.away:
                    if version + 1 < self.oldest:
                        line({"type": "ERROR", "object": {"kind": "Status", "code": 410,
                                                          "message": "too old"}})
                        break
                    for at, node in [one for one in self.history if one[0] > version]:
                        line({"type": "MODIFIED", "object": self.object(node, at)})
                        version = at
                    self.changed.wait(1)
            handler.wfile.write(b"0\r\n\r\n")
        except OSError:
            pass  # The client is gone.
