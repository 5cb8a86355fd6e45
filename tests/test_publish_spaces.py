"""`spooftrace publish --type metric` and `--type space`: what is pushed, what is refused, and that it works elsewhere."""

import json
import shutil
from pathlib import Path

import pytest
from small_hub import small_hub

from spooftrace.model_facts import split_card
from spooftrace.publish import PublishError
from spooftrace.spaces.metric_spaces import SLUGS, write_metric_space
from spooftrace.spaces.publish import check_space, find_space, stage_space


ROOT = Path(__file__).resolve().parent.parent
HEADER = "---\ntitle: App\nsdk: gradio\nsdk_version: 6.31.0\napp_file: app.py\n---\n\nAn app.\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with small_hub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("space") / "app"
    folder.mkdir()
    (folder / "README.md").write_text(HEADER)
    (folder / "app.py").write_text("import spooftrace\nprint(spooftrace.__version__)\n")
    (folder / "requirements.txt").write_text("# for the model\ntorch==2.12.1\nsoundfile==0.13.1\n")
    (folder / "style.css").write_text("body {}\n")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "app.cpython-312.pyc").write_bytes(b"old")
    return folder


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_a_metric_is_published_and_loaded_by_evaluate_without_spooftrace(server):
    pytest.importorskip("evaluate")
    server.cut("POST /api/spaces/alice/eer/commit")  # applied, but the answer is lost
    done = server.spooftrace("publish", "--type", "metric", "eer", "alice/eer")
    assert done.returncode == 0, done.stderr
    assert 'evaluate.load("alice/eer") was tried' in done.stdout and len(server.titles("alice/eer", kind="space")) == 2
    assert {"eer.py", "metrics.py", "app.py", "README.md"} <= set(server.files("alice/eer", kind="space"))


@pytest.mark.parametrize("slug", SLUGS)
def test_the_space_of_a_metric_has_a_header_that_the_hub_takes(tmp_path, slug):
    write_metric_space(slug, tmp_path)
    (tmp_path / "requirements.txt").write_text("")  # a metric works with any of several versions
    check_space(tmp_path)


def test_a_metric_is_pushed_under_its_own_name_alone(server):
    done = server.spooftrace("publish", "--type", "metric", "eer", "alice/mine-eer")
    assert done.returncode == 1 and "push to OWNER/eer" in done.stderr


# --- Spaces ----------------------------------------------------------------------------------------------------------


def test_a_space_brings_the_package_along_and_works_from_its_download(server, app):
    card = HEADER.replace("title", "tags: [spooftrace]\ntitle").encode()
    server.seed("alice/demo", {"README.md": card, "spooftrace/gone.py": b"old", "old.txt": b"old"}, kind="space")
    server.fail("POST /api/spaces/alice/demo/commit", 503, **{"Retry-After": "0"})
    done = server.spooftrace("publish", "--type", "space", app, "alice/demo", "--message", "the demo")
    assert done.returncode == 0, done.stderr
    assert (
        "the package in it imported" in done.stdout and len(server.titles("alice/demo", kind="space")) == 3
    )  # with the seed
    files = server.files("alice/demo", kind="space")
    assert {"app.py", "style.css", "spooftrace/hub.py", "spooftrace/modeling/aasist.py"} <= set(files)
    assert {"spooftrace/trainers/recipes/mldg-table3-mldg-r4.yaml", "spooftrace/cli/detect.py"} <= set(files)
    assert "spooftrace/modeling/checkpoints/default/model.safetensors" in files
    assert not {"old.txt", "spooftrace/gone.py"} & set(files) and ".gitattributes" in files
    assert not any("__pycache__" in name or name.endswith(".pyc") for name in files)
    assert split_card(files["README.md"].decode())[0]["tags"] == ["spooftrace"]


def test_a_space_of_somebody_else_is_left_alone(server, app, tmp_path):
    server.seed("alice/game", {"app.py": b"play()", "sounds/a.wav": b"mine"}, kind="space")
    before = server.head("alice/game", kind="space")
    command = ["publish", "--type", "space", app, "alice/game", "--no-check"]
    done = server.spooftrace(*command, TMPDIR=str(tmp_path))
    assert done.returncode == 1 and "2 would be replaced or deleted (app.py, sounds/a.wav)" in done.stderr, done.stderr
    assert "pass --overwrite" in done.stderr and not list(tmp_path.iterdir())
    planned = server.spooftrace(*command, "--dry-run", "--json")
    plan = json.loads(planned.stdout)
    assert (plan["hub"]["replaced"], plan["hub"]["deleted"]) == (["app.py"], ["sounds/a.wav"])
    assert "2 would be" in plan["hub"]["problem"] and plan["warnings"][0].startswith("the push would fail now: alice")
    assert server.head("alice/game", kind="space") == before
    assert server.spooftrace(*command, "--overwrite").returncode == 0
    assert "sounds/a.wav" not in server.files("alice/game", kind="space")


def test_the_package_in_a_space_is_the_one_that_is_installed(app, tmp_path):
    stage_space(app, tmp_path)
    assert (tmp_path / "spooftrace" / "detector.py").read_bytes() == (ROOT / "spooftrace" / "detector.py").read_bytes()
    for part in ("modeling", "data_scripts", "trainers"):
        there = {
            path.relative_to(tmp_path / "spooftrace" / part) for path in (tmp_path / "spooftrace" / part).rglob("*.py")
        }
        assert there == {path.relative_to(ROOT / part) for path in (ROOT / part).rglob("*.py")}


def test_hidden_files_beside_an_app_stay(app, tmp_path):
    source, target = tmp_path / "source", tmp_path / "staged"
    shutil.copytree(app, source)
    for name in (".env", ".venv/lib/a.py", "pages/.secret", ".gitattributes"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("mine")
    (source / ".venv" / "python").symlink_to("/usr/bin/python3")
    stage_space(source, target, vendored=False)
    found = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert found == {".gitattributes", "README.md", "app.py", "requirements.txt", "style.css"}


def test_the_card_of_an_app_keeps_what_it_says_and_gets_the_tag(app, tmp_path):
    header, body = split_card((stage_space(find_space("detector"), tmp_path) / "README.md").read_text("utf-8"))
    ours = split_card((ROOT / "spaces" / "detector" / "README.md").read_text("utf-8"))
    assert header == {**ours[0], "tags": [*ours[0]["tags"], "spooftrace"]} and body == ours[1]


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("README.md", HEADER.replace("6.31.0", "6"), "sdk_version 6 is not pinned"),
        (
            "requirements.txt",
            "--extra-index-url https://me:secret@index.example/simple\n",
            "shows everybody the login",
        ),
        ("README.md", HEADER.replace("app.py", "main.py"), "app_file 'main.py' is not there"),
        ("README.md", HEADER.replace("title: App", "colorFrom: orange"), "no title; colorFrom 'orange'"),
        ("README.md", HEADER.replace("gradio", "docker"), "not gradio"),
        ("README.md", HEADER.replace("title: App", f"title: App\nshort_description: {61 * 'x'}"), "more than 60"),
        ("README.md", "An app.\n", "README.md has no title; README.md has no sdk"),
        ("requirements.txt", "torch>=2.10\n", "does not pin 'torch>=2.10'"),
        ("requirements.txt", "spooftrace==0.1.0\n", "lies beside the app"),
        ("app.py", None, "app.py missing"),
    ],
)
def test_a_space_that_would_not_build_is_refused(app, tmp_path, file, text, words):
    folder = tmp_path / "app"
    folder.mkdir()
    for path in app.glob("*.*"):
        (folder / path.name).write_bytes(path.read_bytes())
    if text is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(text)
    with pytest.raises(PublishError, match=words):
        check_space(folder)


def test_the_demo_is_a_space_that_the_hub_takes_and_brings_its_own_files(tmp_path):
    check_space(find_space("detector"))
    stage_space(find_space("detector"), tmp_path)
    beside = {path.name for path in (ROOT / "spaces" / "detector").glob("*.*")}
    assert {"app.py", "README.md", "requirements.txt"} <= beside
    for folder in (tmp_path, tmp_path / "spooftrace" / "spaces" / "detector"):  # the package reads its own copy
        assert beside <= {path.name for path in folder.iterdir()}


def test_a_space_that_is_not_there_is_said():
    with pytest.raises(PublishError, match="neither a folder nor a Space"):
        find_space("nothing")
