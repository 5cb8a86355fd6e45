"""What the small Hub of the tests stores and answers; `small_hub.py` serves it over HTTP.

An answer is a function of a [`Call`] and of the parts of its path; an error is raised as a [`Refusal`].
"""

import base64
import hashlib
import json
import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from email.message import Message
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import yaml


LFS_SUFFIXES = {".arrow", ".bin", ".flac", ".mp3", ".npy", ".npz", ".onnx", ".parquet", ".safetensors", ".wav", ".zip"}
LFS_BYTES = 10 * 1024 * 1024
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
PULL = "refs/pr/"
KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}


class Refusal(Exception):
    """An answer with an error status; `code` is what the client turns into its exception classes."""

    def __init__(self, status: int, message: str, code: str | None = None, *, url: str | None = None, **headers: str):
        super().__init__(message)
        self.status, self.body = status, {"error": message} | ({"url": url} if url else {})
        self.headers = ({"X-Error-Code": code} if code else {}) | headers


class Answer(NamedTuple):
    body: bytes
    headers: dict[str, str]
    status: int = 200


def json_answer(value: Any, **headers: str) -> Answer:
    return Answer(json.dumps(value).encode(), {"Content-Type": "application/json", **headers})


class Store:
    """Repositories in a folder: blobs by their SHA-256, one file per commit, one per repository with its branches."""

    def __init__(self, root: Path):
        self.root = root
        self.lock = threading.RLock()

    def _folder(self, kind: str, name: str) -> Path:
        return self.root / kind / name

    def find(self, kind: str, name: str) -> dict | None:
        path = self._folder(kind, name) / "repo.json"
        return json.loads(path.read_bytes()) if path.is_file() else None

    def create(self, kind: str, name: str, *, private: bool = False, sdk: str | None = None) -> dict:
        repo = {"kind": kind, "name": name, "private": private, "sdk": sdk, "branches": {}}
        (self._folder(kind, name) / "commits").mkdir(parents=True)
        self.commit(
            repo, "main", {".gitattributes": self.entry(b"*.safetensors filter=lfs -text\n", lfs=False)}, "init"
        )
        return repo

    def commit(self, repo: dict, branch: str, files: dict[str, dict], title: str) -> str:
        """Makes `files` the branch's new head and returns its id."""
        date = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        # Two commits of the same files within a millisecond are still two.
        text = json.dumps({"title": title, "date": date, "files": files, "nonce": secrets.token_hex(4)})
        sha = hashlib.sha1(text.encode()).hexdigest()
        folder = self._folder(repo["kind"], repo["name"])
        (folder / "commits" / sha).write_text(text)
        self.point(repo, branch, sha)
        return sha

    def point(self, repo: dict, branch: str, sha: str) -> None:
        """Makes a commit the head of a branch, which may be new."""
        repo["branches"][branch] = sha
        (self._folder(repo["kind"], repo["name"]) / "repo.json").write_text(json.dumps(repo))

    def resolve(self, repo: dict, revision: str) -> str:
        """A branch or a (shortened) commit id -> the commit id."""
        branch = revision.removeprefix("refs/heads/")
        if branch in repo["branches"]:
            return repo["branches"][branch]
        if re.fullmatch(r"[0-9a-f]{7,40}", revision):
            found = list((self._folder(repo["kind"], repo["name"]) / "commits").glob(f"{revision}*"))
            if len(found) == 1:
                return found[0].name
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def commit_of(self, repo: dict, sha: str) -> dict:
        return json.loads((self._folder(repo["kind"], repo["name"]) / "commits" / sha).read_bytes())

    def blob(self, sha256: str) -> Path:
        return self.root / "blobs" / sha256

    def entry(self, content: bytes, *, lfs: bool) -> dict:
        """Stores a file's content; returns how commits name it. `oid` is git's: of the pointer, for an LFS file."""
        sha256 = hashlib.sha256(content).hexdigest()
        self.blob(sha256).parent.mkdir(parents=True, exist_ok=True)
        self.blob(sha256).write_bytes(content)
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n".encode()
        tracked = pointer if lfs else content
        oid = hashlib.sha1(b"blob %d\0" % len(tracked) + tracked).hexdigest()
        return {"sha256": sha256, "size": len(content), "oid": oid, "lfs": lfs, "pointer": len(pointer)}


def is_lfs(path: str, size: int) -> bool:
    return Path(path).suffix in LFS_SUFFIXES or size > LFS_BYTES


@dataclass(frozen=True)
class Call:
    """One request as the answers below see it: who asks, what for, and the repositories."""

    url: str
    store: Store
    headers: Message
    query: dict[str, str]
    body: bytes
    user: str | None
    may_write: bool

    def repo(self, kind: str | None, name: str, *, write: bool = False) -> dict:
        """The repository, if this user may read (or write) it."""
        repo = self.store.find(KINDS[kind or "models"], name)
        if repo is None or (repo["private"] and self.user != name.split("/")[0]):
            # The Hub answers 401 to the anonymous; by https alone the client would know what that means.
            raise Refusal(404 if self.user else 401, "Repository not found", "RepoNotFound")
        if write:
            self.check_write(name)
        return repo

    def check_write(self, name: str) -> None:
        if self.user is None:
            raise Refusal(401, "Invalid username or password.")
        if not self.may_write:
            raise Refusal(403, "Forbidden: you must use a write token to upload to a repository.")
        if name.split("/")[0] != self.user:
            raise Refusal(403, f"You don't have the rights to write under the namespace {name.split('/')[0]!r}")


def create_branch(call: Call, kind: str, name: str, revision: str) -> Answer:
    repo = call.repo(kind, name, write=True)
    if revision in repo["branches"]:
        raise Refusal(409, f"Reference already exists: {revision}")
    start = json.loads(call.body or b"{}").get("startingPoint") or "main"
    call.store.point(repo, revision, call.store.resolve(repo, start))
    return json_answer({})


def whoami(call: Call) -> Answer:
    if call.user is None:
        raise Refusal(401, "Invalid username or password.")
    role = "write" if call.may_write else "read"
    auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
    return json_answer({"type": "user", "name": call.user, "fullname": call.user, "orgs": [], "auth": auth})


def create_repo(call: Call) -> Answer:
    wanted = json.loads(call.body)
    kind, name = wanted.get("type") or "model", f"{wanted.get('organization') or call.user}/{wanted['name']}"
    private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
    url = f"{call.url}/{'' if kind == 'model' else kind + 's/'}{name}"
    call.check_write(name)
    if call.store.find(kind, name):
        raise Refusal(409, f"You already created this {kind} repo: {name}", url=url)
    if kind == "space" and not wanted.get("sdk"):
        raise Refusal(400, "A Space needs an sdk")
    call.store.create(kind, name, private=private, sdk=wanted.get("sdk"))
    return json_answer({"url": url, "name": name, "id": name})


def validate_card(call: Call) -> Answer:
    wanted = json.loads(call.body)
    errors = card_errors(wanted["content"]) if wanted["repoType"] == "space" else []
    return json_answer({"errors": errors, "warnings": []})


def card_errors(card: str) -> list[dict]:
    """What the Hub refuses in the card of a Space."""
    header = re.match(r"---\r?\n(.*?)\r?\n---", card, re.DOTALL)
    fields = dict(re.findall(r"^(\w+): *(.*?) *$", header[1] if header else "", re.MULTILINE))
    errors = [f'"{key}" must be a colour' for key in ("colorFrom", "colorTo") if fields.get(key, "red") not in COLOURS]
    errors += [] if fields.get("sdk") in {"gradio", "docker", "static"} else ['"sdk" must be gradio, docker or static']
    errors += ['"short_description" is too long'] if len(fields.get("short_description", "")) > 60 else []
    return [{"message": message} for message in errors]


def preupload(call: Call, kind: str, name: str, revision: str) -> Answer:
    repo = call.repo(kind, name, write=True)
    present = call.store.commit_of(repo, call.store.resolve(repo, revision))["files"]
    answers = []
    for file in json.loads(call.body)["files"]:
        lfs, entry = is_lfs(file["path"], file["size"]), present.get(file["path"])
        oid = entry and entry["sha256" if lfs else "oid"]
        mode = {"uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": oid}
        answers.append({"path": file["path"], **mode})
    return json_answer({"files": answers})


def lfs_batch(call: Call, kind: str, name: str) -> Answer:
    call.repo(kind, name, write=True)
    objects = []
    for wanted in json.loads(call.body)["objects"]:
        href = f"{call.url}/_lfs/{wanted['oid']}"
        actions = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
        stored = call.store.blob(wanted["oid"]).is_file()
        objects.append({**wanted, "authenticated": True} | ({} if stored else {"actions": actions}))
    return json_answer({"transfer": "basic", "objects": objects})


def lfs_put(call: Call, oid: str) -> Answer:
    if hashlib.sha256(call.body).hexdigest() != oid:
        raise Refusal(400, "The content does not have the announced SHA-256")
    call.store.entry(call.body, lfs=True)
    return json_answer({})


def lfs_verify(call: Call, oid: str) -> Answer:
    if not call.store.blob(oid).is_file():
        raise Refusal(404, "No such object")
    return json_answer({})


def commit(call: Call, kind: str, name: str, revision: str) -> Answer:
    repo, store = call.repo(kind, name, write=True), call.store
    head, branch = store.resolve(repo, revision), revision.removeprefix("refs/heads/")
    header, *operations = [json.loads(line) for line in call.body.splitlines()]
    if header["value"].get("parentCommit", head) != head:
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    files = dict(store.commit_of(repo, head)["files"])
    for operation in operations:
        files = _applied(store, files, operation["key"], operation["value"])
    card = files.get("README.md") if repo["kind"] == "space" else None
    if card and (errors := card_errors(store.blob(card["sha256"]).read_text("utf-8"))):
        raise Refusal(400, f"Invalid metadata in README.md: {errors[0]['message']}")
    page, pull_request = f"{call.url}/{'' if kind == 'models' else kind + '/'}{name}", {}
    if "create_pr" in call.query:
        number = len(_pull_requests(repo)) + 1
        branch, pull_request = f"{PULL}{number}", {"pullRequestUrl": f"{page}/discussions/{number}"}
    sha = store.commit(repo, branch, files, header["value"]["summary"])
    return json_answer({"success": True, "commitOid": sha, "commitUrl": f"{page}/commit/{sha}", **pull_request})


def _applied(store: Store, files: dict[str, dict], key: str, value: dict) -> dict[str, dict]:
    """The files after one operation of a commit."""
    path = value["path"].rstrip("/")
    if key == "file":
        return files | {path: store.entry(base64.b64decode(value["content"]), lfs=False)}
    if key == "lfsFile":
        if not store.blob(value["oid"]).is_file():
            raise Refusal(400, f"{path}: its LFS object was not uploaded")
        return files | {path: store.entry(store.blob(value["oid"]).read_bytes(), lfs=True)}
    if key in ("deletedFile", "deletedFolder"):
        return {f: entry for f, entry in files.items() if f != path and not f.startswith(f"{path}/")}
    raise Refusal(400, f"This Hub does not know the operation {key}")


def _pull_requests(repo: dict) -> list[int]:
    return [int(branch.removeprefix(PULL)) for branch in repo["branches"] if branch.startswith(PULL)]


def discussions(call: Call, kind: str, name: str) -> Answer:
    """All of them are open pull requests, on one page."""
    repo, store = call.repo(kind, name), call.store
    fixed = {"status": "open", "isPullRequest": True, "repo": {"name": name, "type": repo["kind"]}}
    found = []
    for number in _pull_requests(repo):
        state = store.commit_of(repo, store.resolve(repo, f"{PULL}{number}"))
        found.append({"num": number, "title": state["title"], "createdAt": state["date"], **fixed})
    return json_answer({"discussions": found, "count": len(found), "start": 0})


def info(call: Call, kind: str, name: str, revision: str = "") -> Answer:
    repo, store = call.repo(kind, name), call.store
    sha = store.resolve(repo, revision or "main")
    state = store.commit_of(repo, sha)
    siblings = [
        {"rfilename": path} | (_details(entry) if "blobs" in call.query else {})
        for path, entry in state["files"].items()
    ]
    known = {
        "_id": hashlib.md5(name.encode()).hexdigest()[:24],
        "id": name,
        "modelId": name,
        "author": name.split("/")[0],
    }
    dates = {"lastModified": state["date"], "createdAt": state["date"]}
    flags = {"private": repo["private"], "gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": []}
    return json_answer({**known, **dates, **flags, "sha": sha, "sdk": repo["sdk"], "siblings": siblings})


def list_models(call: Call) -> Answer:
    """The models of an owner, on one page; tags and metadata are those of the cards."""
    owner, tag, found = call.query.get("author", ""), call.query.get("filter"), []
    for path in sorted((call.store.root / "model" / owner).glob("*/repo.json")):
        repo = json.loads(path.read_bytes())
        card = _card(call.store, repo)
        tags = [*(card.get("tags") or []), card.get("library_name")]
        if (repo["private"] and call.user != owner) or (tag and tag not in tags):
            continue
        known = {
            "id": repo["name"],
            "modelId": repo["name"],
            "author": owner,
            "private": repo["private"],
            "tags": tags,
        }
        found.append({**known, "sha": repo["branches"]["main"], "cardData": card})
    return json_answer(found)


def _card(store: Store, repo: dict) -> dict:
    entry = store.commit_of(repo, repo["branches"]["main"])["files"].get("README.md")
    text = store.blob(entry["sha256"]).read_text("utf-8") if entry else ""
    header = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    return yaml.safe_load(header[1]) if header else {}


def _details(entry: dict) -> dict:
    lfs = {"sha256": entry["sha256"], "size": entry["size"], "pointerSize": entry["pointer"]}
    return {"size": entry["size"], "blobId": entry["oid"]} | ({"lfs": lfs} if entry["lfs"] else {})


def _tree_entry(path: str, entry: dict | None) -> dict:
    if entry is None:
        return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}
    lfs = {"oid": entry["sha256"], "size": entry["size"], "pointerSize": entry["pointer"]}
    return {"type": "file", "path": path, "size": entry["size"], "oid": entry["oid"]} | (
        {"lfs": lfs} if entry["lfs"] else {}
    )


def _listing(files: dict[str, dict]) -> dict[str, dict | None]:
    """Files and the folders above them; a folder has no entry."""
    folders = {str(parent) for path in files for parent in Path(path).parents if str(parent) != "."}
    return dict(sorted({**dict.fromkeys(folders), **files}.items()))


def tree(call: Call, kind: str, name: str, revision: str, path: str = "") -> Answer:
    repo, store = call.repo(kind, name), call.store
    sha = store.resolve(repo, revision)
    listing, folder = _listing(store.commit_of(repo, sha)["files"]), path.strip("/")
    if folder and folder not in listing:
        raise Refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound")
    below = {name: entry for name, entry in listing.items() if not folder or name.startswith(f"{folder}/")}
    if call.query.get("recursive", "false").lower() not in ("true", "1"):
        below = {name: entry for name, entry in below.items() if "/" not in name[len(folder) :].lstrip("/")}
    return json_answer([_tree_entry(name, entry) for name, entry in below.items()], **{"X-Repo-Commit": sha})


def paths_info(call: Call, kind: str, name: str, revision: str) -> Answer:
    repo, store = call.repo(kind, name), call.store
    listing = _listing(store.commit_of(repo, store.resolve(repo, revision))["files"])
    is_json = "json" in call.headers.get("Content-Type", "")
    wanted = (json.loads if is_json else parse_qs)(call.body.decode()).get("paths", [])
    paths = [wanted] if isinstance(wanted, str) else wanted
    return json_answer([_tree_entry(path, listing[path]) for path in paths if path in listing])


def refs(call: Call, kind: str, name: str) -> Answer:
    branches = {key: sha for key, sha in call.repo(kind, name)["branches"].items() if not key.startswith(PULL)}
    named = [{"name": key, "ref": f"refs/heads/{key}", "targetCommit": sha} for key, sha in branches.items()]
    return json_answer({"branches": named, "converts": [], "tags": [], "pullRequests": []})


def resolve(call: Call, kind: str, name: str, revision: str, path: str) -> Answer:
    repo, store = call.repo(kind, name), call.store
    sha = store.resolve(repo, revision)
    entry = store.commit_of(repo, sha)["files"].get(path)
    headers = {"X-Repo-Commit": sha}
    if entry is None:
        raise Refusal(404, f"Entry not found: {path}", "EntryNotFound", **headers)
    content, etag = store.blob(entry["sha256"]).read_bytes(), entry["sha256" if entry["lfs"] else "oid"]
    headers |= {"ETag": f'"{etag}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    if entry["lfs"]:
        headers |= {"X-Linked-Size": str(entry["size"]), "X-Linked-Etag": f'"{etag}"'}
    bounds = re.fullmatch(r"bytes=(\d+)-(\d*)", call.headers.get("Range", ""))
    if bounds is None:
        return Answer(content, headers)
    first, last = int(bounds[1]), min(int(bounds[2] or len(content)), len(content) - 1)
    if first >= len(content):
        raise Refusal(416, "The range lies behind the end of the file")
    headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
    return Answer(content[first : last + 1], headers, 206)


_REPO = r"(?P<kind>models|datasets|spaces)/(?P<name>[^/]+/[^/]+)"
_PAGE = r"/(?:(?P<kind>datasets|spaces)/)?(?P<name>[^/]+/[^/]+?)"
_REVISION = r"(?P<revision>[^/]+)"
ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("GET", r"/api/whoami-v2", whoami),
    ("POST", r"/api/repos/create", create_repo),
    ("POST", r"/api/validate-yaml", validate_card),
    ("GET", r"/api/models", list_models),
    ("GET", rf"/api/{_REPO}", info),
    ("GET", rf"/api/{_REPO}/revision/{_REVISION}", info),
    ("GET", rf"/api/{_REPO}/refs", refs),
    ("GET", rf"/api/{_REPO}/tree/{_REVISION}(?P<path>/.*)?", tree),
    ("POST", rf"/api/{_REPO}/paths-info/{_REVISION}", paths_info),
    ("POST", rf"/api/{_REPO}/branch/{_REVISION}", create_branch),
    ("POST", rf"/api/{_REPO}/preupload/{_REVISION}", preupload),
    ("GET", rf"/api/{_REPO}/discussions", discussions),
    ("POST", rf"/api/{_REPO}/commit/{_REVISION}", commit),
    ("POST", rf"{_PAGE}\.git/info/lfs/objects/batch", lfs_batch),
    ("PUT", r"/_lfs/(?P<oid>[0-9a-f]{64})", lfs_put),
    ("POST", r"/_lfs/(?P<oid>[0-9a-f]{64})/verify", lfs_verify),
    ("GET", rf"{_PAGE}/resolve/{_REVISION}/(?P<path>.+)", resolve),
]
