"""Pushing a folder: one commit whatever the Hub does, and refusals in one line."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import warm_python
from small_hub import READ, SmallHub, small_hub

from spooftrace.hub import Commit, check_repo_id, local_files, push_folder
from spooftrace.hub_repository import Repository, _pause, status_of


# The client reads its endpoint when it is imported: all calls run in one process of their own, one after the other.
PROGRAM = """
import json, sys
from spooftrace.hub import push_folder
from spooftrace.hub_preview import preview_push
results = []
for call in json.loads(sys.argv[1]):
    try:
        if call.pop("preview", False):
            found = preview_push(**call)
            results.append({**vars(found), "problem": str(found.problem), "certain": found.is_certain})
        else:
            results.append(push_folder(message="a push", **call)._asdict())
    except (OSError, ValueError) as error:
        results.append({"error": str(error), "kind": type(error).__name__})
print(json.dumps(results))
"""

AT_ONCE = {"Retry-After": "0"}


def run(hub: SmallHub, calls: list[dict], **variables: str) -> list[dict]:
    done = warm_python.run("-c", PROGRAM, json.dumps(calls), env=hub.env(**variables), check=True)
    return json.loads(done.stdout)


def commits(hub: SmallHub, repo_id: str) -> list[str]:
    """Titles of all commits of a repository, sorted."""
    return sorted(json.loads(path.read_text())["title"] for path in hub.store.root.glob(f"*/{repo_id}/commits/*"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pushed") / "model"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "model.safetensors").write_bytes(bytes(range(256)) * 100)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nA model.\n")
    (folder / "config.json").write_text("{}\n")
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    return folder


@pytest.fixture(scope="module")
def pushed(tmp_path_factory, folder) -> tuple[SmallHub, dict[str, dict]]:
    """The Hub after many pushes, and the result of each by name."""
    empty, app = tmp_path_factory.mktemp("empty"), tmp_path_factory.mktemp("app")
    (app / "README.md").write_text("---\ntitle: App\nsdk: gradio\nsdk_version: 6.31.0\napp_file: app.py\n---\n")
    (app / "app.py").write_text("print()\n")
    calls: dict[str, dict] = {
        "preview of a new one": {"repo_id": "alice/plain", "preview": True},
        "preview of foreign files": {"repo_id": "alice/old", "replace": ["deep/*.bin"], "preview": True},
        "preview of a branch": {"repo_id": "alice/old", "revision": "later", "preview": True},
        "preview of a read token": {"repo_id": "alice/old", "token": READ, "preview": True},
        "preview of a wrong token": {"repo_id": "alice/old", "token": "hf_nobody", "preview": True},
        "preview of another's": {"repo_id": "bob/new", "preview": True},
        "preview of a busy Hub": {"repo_id": "alice/unsure", "preview": True},
        "plain": {"repo_id": "alice/plain"},
        "again": {"repo_id": "alice/plain"},
        "busy": {"repo_id": "alice/busy"},
        "lost": {"repo_id": "alice/lost"},
        "conflict": {"repo_id": "alice/conflict"},
        "slow start": {"repo_id": "alice/slow"},
        "given up": {"repo_id": "alice/down", "attempts": 2},
        "foreign": {"repo_id": "alice/old", "replace": ["deep/*.bin"]},
        "proposed": {"repo_id": "alice/old", "replace": ["deep/*.bin"], "create_pr": True},
        "branched": {"repo_id": "alice/old", "replace": ["deep/*.bin"], "revision": "next"},
        "replacing": {"repo_id": "alice/old", "replace": ["deep/*.bin"], "overwrite": True},
        "ours": {"repo_id": "alice/ours"},
        "beside": {"repo_id": "alice/beside"},
        "new space": {"repo_id": "alice/fresh", "repo_type": "space", "folder": str(app)},
        "same licence": {"repo_id": "alice/licensed"},
        "other licence": {"repo_id": "alice/other"},
        "lost proposal": {"repo_id": "alice/proposed", "create_pr": True},
        "branch given up": {"repo_id": "alice/half", "revision": "next", "attempts": 1},
        "preview of its branch": {"repo_id": "alice/half", "revision": "next", "preview": True},
        "branch again": {"repo_id": "alice/half", "revision": "next"},
        "main of it": {"repo_id": "alice/half", "revision": "main"},
        "private": {"repo_id": "alice/hidden", "private": True},
        "public": {"repo_id": "alice/old", "private": True},
        "space": {"repo_id": "alice/app", "repo_type": "space", "folder": str(app)},
        "read token": {"repo_id": "alice/new", "token": READ},
        "wrong token": {"repo_id": "alice/plain", "token": "hf_nobody"},
        "not mine": {"repo_id": "bob/new"},
        "nothing": {"repo_id": "alice/empty", "folder": str(empty)},
        "no owner": {"repo_id": "plain"},
    }
    with small_hub(tmp_path_factory.mktemp("hub")) as hub:
        hub.seed("alice/old", {"deep/old.bin": b"old", "deep/notes.txt": b"mine"})
        hub.seed("alice/ours", {"README.md": b"---\ntags: [spooftrace]\n---\n", "config.json": b"old"})
        hub.seed("alice/beside", {"notes.txt": b"mine"})
        hub.seed("alice/fresh", {"README.md": b"---\ntitle: App\nsdk: gradio\n---\n"}, kind="space")
        hub.seed("alice/licensed", {"README.md": b"---\nlicense: apache-2.0\n---\n"})
        hub.seed("alice/other", {"README.md": b"---\nlicense: mit\n---\n"})
        hub.seed("alice/half", {"config.json": b"old"})
        hub.fail("POST /api/models/alice/half/commit", 500, **AT_ONCE)
        hub.cut("POST /api/models/alice/proposed/commit")
        hub.fail("POST /api/models/alice/busy/commit", 503, times=2, **AT_ONCE)
        hub.cut("POST /api/models/alice/lost/commit")
        hub.fail("POST /api/models/alice/conflict/commit", 412, **AT_ONCE)
        hub.fail("GET /api/models/alice/slow", 429, **AT_ONCE)
        hub.fail("GET /api/models/alice/unsure", 503, **AT_ONCE)
        hub.fail("POST /api/models/alice/down/commit", 500, times=2, **AT_ONCE)
        results = run(hub, [{"folder": str(folder), **call} for call in calls.values()])
        yield hub, dict(zip(calls, results, strict=True))


def test_a_push_is_one_commit_that_holds_the_folder(pushed, folder):
    hub, results = pushed
    push = results["plain"]
    assert (push["files"], push["changed"], push["pull_request"]) == (3, True, None)
    assert push["commit"] == hub.head("alice/plain") and push["commit"] in push["url"]
    here = {name: path.read_bytes() for name, path in local_files(folder).items()}
    assert {name: data for name, data in hub.files("alice/plain").items() if name in here} == here
    assert ".git/HEAD" not in hub.files("alice/plain")


def test_what_the_head_holds_already_is_not_pushed_again(pushed):
    hub, results = pushed
    assert not results["again"]["changed"] and results["again"]["commit"] == results["plain"]["commit"]
    assert commits(hub, "alice/plain") == ["a push", "init"]


@pytest.mark.parametrize("name", ["busy", "lost", "conflict", "slow"])
def test_whatever_goes_wrong_in_between_there_is_one_commit_at_the_end(pushed, name):
    hub, results = pushed
    push = results["slow start" if name == "slow" else name]
    assert push.get("changed"), push
    assert commits(hub, f"alice/{name}") == ["a push", "init"]
    assert push["commit"] == hub.head(f"alice/{name}")


def test_a_hub_that_stays_busy_is_given_up_with_nothing_committed(pushed):
    hub, results = pushed
    assert results["given up"]["kind"] == "HubError" and "busy (500" in results["given up"]["error"]
    assert commits(hub, "alice/down") == ["init"]


def test_a_space_is_made_with_its_sdk(pushed):
    hub, results = pushed
    assert results["space"]["url"] == f"{hub.url}/spaces/alice/app/commit/{results['space']['commit']}"
    assert hub.store.find("space", "alice/app")["sdk"] == "gradio"


def test_files_of_somebody_else_are_replaced_only_where_that_is_asked_for(pushed):
    hub, results = pushed
    assert results["foreign"]["kind"] == "ForeignFilesError" and "\n" not in results["foreign"]["error"]
    for words in ("alice/old holds files", "1 would be", "(deep/old.bin)", "pass --overwrite"):
        assert words in results["foreign"]["error"], words
    assert results["proposed"]["pull_request"] == 1 and results["branched"]["changed"]
    assert "deep/old.bin" not in hub.files("alice/old", revision="next")
    assert results["replacing"]["changed"] and commits(hub, "alice/old") == ["a push"] * 3 + ["init", "seed"]


def test_a_card_with_our_tag_a_new_space_and_files_beside_ours_are_no_obstacle(pushed):
    _, results = pushed
    for name in ("ours", "beside", "new space"):
        assert results[name].get("changed"), results[name]


def test_a_card_that_came_with_the_repository_is_replaced_where_nothing_that_it_says_is_lost(pushed):
    _, results = pushed
    assert results["same licence"].get("changed"), results["same licence"]
    assert "1 would be replaced or deleted (README.md)" in results["other licence"]["error"]


def test_a_branch_whose_first_push_failed_takes_the_next_one(pushed):
    hub, results = pushed
    assert results["branch given up"]["kind"] == "HubError"
    assert results["preview of its branch"]["problem"] == "None" and results["branch again"].get("changed"), results
    assert results["main of it"]["kind"] == "ForeignFilesError" and hub.files("alice/half")["config.json"] == b"old"


def test_a_proposal_whose_answer_is_lost_is_not_made_twice(pushed):
    hub, results = pushed
    assert (results["lost proposal"]["pull_request"], results["lost proposal"]["changed"]) == (1, True)
    assert commits(hub, "alice/proposed") == ["a push", "init"]


def test_what_the_client_remembers_of_one_head_is_not_sent_to_another(tmp_path):
    sent, heads = [], iter(["a", "a", "b"])

    def call(method, operations, **options):
        sent.append(operations)
        if len(sent) < 3:
            raise ConnectionError("lost")
        return SimpleNamespace(oid="c", pr_num=None)

    api = SimpleNamespace(endpoint="")
    known = {"attempts": 3, "repo_type": "model", "repo_id": "alice/x", "api": api, "call": call}
    known |= {"head": lambda _: next(heads), "files": lambda _: {}, "wait_or_raise": lambda *_: None}
    (tmp_path / "a.txt").write_text("a")
    paths = {"a.txt": tmp_path / "a.txt"}
    Commit(SimpleNamespace(**known), paths, "a push", None, False, (), False).push()
    first, again, moved = sent
    assert first[0] is again[0] and moved[0] is not first[0]


def test_only_what_is_replaced_goes(pushed):
    hub, _ = pushed
    names = set(hub.files("alice/old"))
    assert "deep/old.bin" not in names and {"deep/notes.txt", "deep/model.safetensors"} <= names


def test_a_public_repository_is_not_taken_for_a_private_one(pushed):
    hub, results = pushed
    assert hub.store.find("model", "alice/hidden")["private"] and results["private"]["changed"]
    assert "is public" in results["public"]["error"]


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("read token", "HubError", "may only read"),
        ("wrong token", "HubError", "does not know this token"),
        ("not mine", "HubError", "alice may not write to bob/new"),
        ("nothing", "ValueError", "holds no files"),
        ("no owner", "ValueError", "owner/name"),
    ],
)
def test_refusals_say_what_to_do_in_one_line(pushed, name, kind, words):
    _, results = pushed
    assert results[name]["kind"] == kind and words in results[name]["error"]
    assert "\n" not in results[name]["error"]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "unset it"),
        ({"HF_TOKEN": ""}, "hf auth login"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached"),
    ],
    ids=["offline", "no token", "no Hub"],
)
def test_without_a_way_to_the_hub_the_reason_is_named(hub, folder, variables, words):
    (result,) = run(hub, [{"folder": str(folder), "repo_id": "alice/x", "attempts": 1}], **variables)
    assert result["kind"] == "HubError" and words in result["error"]
    assert hub.requests == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a new one", {"user": "alice", "exists": False, "problem": "None"}),
        (
            "foreign files",
            {"user": "alice", "exists": True, "deleted": ["deep/old.bin"], "problem": "pass --overwrite"},
        ),
        ("a branch", {"exists": True, "deleted": [], "problem": "None", "certain": False}),
        ("a read token", {"user": "alice", "problem": "may only read", "certain": True}),
        ("a wrong token", {"user": None, "exists": None, "problem": "does not know this token", "certain": True}),
        ("another's", {"exists": False, "problem": "alice may not write to bob/new", "certain": True}),
        ("a busy Hub", {"problem": "busy (503", "certain": False}),
    ],
)
def test_a_preview_tells_what_a_push_would_meet_and_changes_nothing(pushed, name, expected):
    hub, results = pushed
    found = results[f"preview of {name}"]
    assert expected["problem"] in found["problem"], found
    assert found == {**found, **expected, "problem": found["problem"]}
    assert hub.store.find("model", "bob/new") is None and hub.store.find("model", "alice/unsure") is None


@pytest.mark.parametrize("name", ["plain", "a/b/c", "alice/a--b", "alice/with space", ""])
def test_a_bad_name_is_refused(name):
    with pytest.raises(ValueError, match=r".+"):
        check_repo_id(name)


@pytest.mark.parametrize("name", ["README.md", ".env", "deep/notes.txt", "token", "run.sh"])
def test_a_folder_with_a_token_of_the_hub_is_not_pushed(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(f"HF_TOKEN=hf_{'aB3' * 12}\n")
    with pytest.raises(ValueError, match=f"{name} holds what looks like a token"):
        push_folder(tmp_path, "alice/mine", message="a push")


@pytest.mark.parametrize(
    ("role", "orgs", "is_proposal", "expected"),
    [
        ("write", [{"name": "acme", "roleInOrg": "write"}], False, None),
        ("write", [{"name": "acme", "roleInOrg": "read"}], False, "alice may not write to acme/x"),
        ("write", [], False, "alice may not write to acme/x"),
        ("write", [], True, None),
        ("read", [{"name": "acme", "roleInOrg": "admin"}], True, "may only read"),
        ("fineGrained", [], False, None),
    ],
)
def test_what_whoami_tells_of_the_rights_is_taken_for_no_more_than_it_says(role, orgs, is_proposal, expected):
    user = {"name": "alice", "orgs": orgs, "auth": {"accessToken": {"role": role}}}
    found = Repository(None, "acme/x", "model", 1).lacking_right(user, is_proposal=is_proposal)
    assert found is None if expected is None else expected in found


def cache(root: Path) -> Path:
    """A snapshot in a folder as the client keeps them."""
    snapshot, blobs = root / "models--a--b" / "snapshots" / "1234", root / "models--a--b" / "blobs"
    for folder in (snapshot / "deep", blobs):
        folder.mkdir(parents=True)
    (blobs / "5678").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/5678")
    (snapshot / "deep" / "config.json").symlink_to("../../../blobs/5678")
    return snapshot


def test_links_of_the_cache_are_followed(tmp_path):
    assert set(local_files(cache(tmp_path))) == {"config.json", "deep/config.json"}
    (tmp_path / "short").symlink_to(cache(tmp_path / "other"))
    assert set(local_files(tmp_path / "short")) == {"config.json", "deep/config.json"}


@pytest.mark.parametrize("target", ["../private.txt", "../../../private.txt", "/etc/hostname", "../private"])
def test_a_link_out_of_the_folder_is_refused(tmp_path, target):
    snapshot = cache(tmp_path)
    for place in (snapshot / "../private.txt", tmp_path / "private.txt"):
        place.write_text("mine")
    (snapshot / "../private").mkdir()
    (snapshot / "notes.txt").symlink_to(target)
    with pytest.raises(ValueError, match=r"notes.txt is a link that leads out of .*1234: put what it points to"):
        local_files(snapshot)
    assert "notes.txt" not in local_files(snapshot, skip=lambda name: name == "notes.txt")


def test_a_link_within_the_folder_is_a_file_but_no_folder(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.txt").write_text("c")
    (tmp_path / "d.txt").symlink_to("a/b/c.txt")
    assert set(local_files(tmp_path)) == {"a/b/c.txt", "d.txt"}
    for name in ("loop", "gone"):
        (tmp_path / name).symlink_to("loop")
    assert set(local_files(tmp_path)) == {"a/b/c.txt", "d.txt"}
    (tmp_path / "e").symlink_to("a/b")
    with pytest.raises(ValueError, match="e is a link to a folder"):
        local_files(tmp_path)


def test_the_wait_is_the_one_that_the_hub_asks_for_whatever_wraps_its_answer():
    inner, outer = RuntimeError("503"), RuntimeError("upload failed")
    inner.response = SimpleNamespace(status_code=503, headers={"Retry-After": "120"})
    outer.__cause__ = inner
    assert (status_of(outer), _pause(outer, 0), _pause(RuntimeError(), 2)) == (503, 120, 4)
