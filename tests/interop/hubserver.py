"""A stand-in for the Hugging Face Hub on the loopback address, as far as huggingface_hub asks it about models."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """Repositories by name, each a list of commits (sha, files by path); large files by their SHA-256."""

    token: str
    address: str = ""
    repositories: dict[str, list[tuple[str, dict[str, bytes]]]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def commit(self, name: str, changed: dict[str, bytes]) -> str:
        history = self.repositories[name]
        files = (history[-1][1] if history else {}) | changed
        sha = hashlib.sha1(f"{name} {len(history)}".encode()).hexdigest()
        history.append((sha, files))
        return sha

    def at(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        history = self.repositories.get(name, [])
        found = [entry for entry in history if revision in ("main", entry[0])]
        return found[-1] if found else None


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(
        self, status: int, value: object = None, headers: dict[str, str] | None = None
    ) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for key, text in (headers or {}).items():
            self.send_header(key, text)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def missing(self) -> None:
        self.reply(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})

    def place(self) -> list[str]:
        path = urlsplit(self.path).path
        self.hub.asked.append(f"{self.command} {path}")
        return [unquote(part) for part in path.strip("/").split("/")]

    def may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def do_POST(self) -> None:
        place, body = self.place(), self.body()
        if place[:2] == ["api", "validate-yaml"]:
            return self.reply(200, {"errors": [], "warnings": []})
        if not self.may_write():
            return self.reply(401, {"error": "Invalid credentials"})
        if place[:3] == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            there = name in self.hub.repositories
            self.hub.repositories.setdefault(name, [])
            self.hub.private.setdefault(
                name, asked.get("visibility") == "private" or bool(asked.get("private"))
            )
            return self.reply(
                409 if there else 200, {"url": f"{self.hub.address}/{name}", "name": name}
            )
        if place[-1] == "batch":
            objects = json.loads(body)["objects"]
            href = f"{self.hub.address}/large/"
            actions = [
                {
                    "oid": o["oid"],
                    "size": o["size"],
                    "actions": {"upload": {"href": href + o["oid"]}},
                }
                for o in objects
            ]
            return self.reply(200, {"transfer": "basic", "objects": actions})
        name = "/".join(place[2:4])
        if place[:2] != ["api", "models"] or name not in self.hub.repositories:
            return self.missing()
        if place[4] == "preupload":
            files = [
                {"path": f["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular"}
                for f in json.loads(body)["files"]
            ]  # fmt: skip
            return self.reply(200, {"files": files})
        changed = {}
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                changed[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            elif entry["key"] == "lfsFile":
                changed[entry["value"]["path"]] = self.hub.large[entry["value"]["oid"]]
        sha = self.hub.commit(name, changed)
        address = f"{self.hub.address}/{name}/commit/{sha}"
        return self.reply(
            200, {"success": True, "commitOid": sha, "commitUrl": address, "hookOutput": ""}
        )

    def do_PUT(self) -> None:
        content = self.body()
        oid = self.place()[-1]
        if hashlib.sha256(content).hexdigest() != oid:
            return self.reply(400, {"error": "another file"})
        self.hub.large[oid] = content
        return self.reply(200, {})

    def do_GET(self) -> None:
        place = self.place()
        resolving = "resolve" in place
        name = "/".join(place[:2] if resolving else place[2:4])
        start = place.index("resolve") + 1 if resolving else 5
        revision = place[start] if len(place) > start else "main"
        if resolving or place[4:5] == ["tree"] or place[4:5] == ["revision"]:
            revision = place[start if resolving else 5]
        if name not in self.hub.repositories or (self.hub.private[name] and not self.may_write()):
            return self.missing()
        found = self.hub.at(name, revision)
        if found is None:
            return self.reply(404, {"error": "no revision"}, {"X-Error-Code": "RevisionNotFound"})
        sha, files = found
        if resolving:
            content = files.get("/".join(place[start + 1 :]))
            if content is None:
                return self.reply(404, {"error": "no entry"}, {"X-Error-Code": "EntryNotFound"})
            tag = hashlib.sha256(content).hexdigest()
            return self.reply(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": sha})
        if place[4:5] == ["tree"]:
            listed = [
                {"type": "file", "path": p, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                for p, c in files.items()
            ]
            return self.reply(200, listed)
        siblings = [{"rfilename": path} for path in files]
        return self.reply(
            200, {"id": name, "sha": sha, "siblings": siblings, "private": False, "tags": []}
        )

    do_HEAD = do_GET


@contextmanager
def served(token: str = "hf_of_a_test") -> Iterator[Hub]:
    """A running stand-in; all of it is gone at the end."""
    hub = Hub(token)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
