"""The doctor finds what is broken, names one command that mends it, and never shows the token."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata

import pytest

from spooftrace import doctor, doctor_hub
from spooftrace.cli import main


TOKEN = "hf_secretsecretsecretsecret"
REQUIREMENTS = [
    "torch>=2.10",
    "transformers>=5.0",
    'peft>=0.18; extra == "lora"',
    "torchaudio<2.12,>=2.11 ; extra == 'train'",
    'spooftrace[lora]; extra == "train"',
]
HEALTHY = {"spooftrace": "0.1.0", "torch": "2.12.1+cpu", "transformers": "5.23.0", "peft": "0.21.2"}


@pytest.fixture
def installed(monkeypatch):
    """The installed packages and versions, as the metadata tells them; the test may change them."""
    versions = dict(HEALTHY)

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda name: REQUIREMENTS if version(name) else [])
    return versions


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """No token, no setting, no Hub unless the test makes one."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    return monkeypatch


class Hub:
    """A loopback Hub that knows one token."""

    def __init__(self):
        self.seen, self.status, self.redirect = [], {}, None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hub.answer(self)

            def log_message(self, *arguments):
                """Quiet."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path, authorization = request.path.partition("?")[0], request.headers.get("Authorization")
        self.seen.append((path, authorization))
        asks_who = path == "/api/whoami-v2"
        known = 401 if asks_who and authorization != f"Bearer {TOKEN}" else 200
        request.send_response(302 if asks_who and self.redirect else self.status.get(path, known))
        if self.redirect:
            request.send_header("Location", self.redirect)
        request.end_headers()
        request.wfile.write(json.dumps({"name": "alice", "echo": authorization}).encode() if asks_who else b"[]")


@pytest.fixture
def hub(environment):
    hub = Hub()
    environment.setenv("HF_ENDPOINT", hub.url + "/")
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def by_name(checks) -> dict[str, doctor.Check]:
    return {check.name: check for check in checks}


@pytest.mark.parametrize(
    ("torch", "torchaudio", "fits"),
    [
        ("2.11.0", "2.11.0", True),
        ("2.12.1+cpu", "2.11.0+cpu", True),
        ("2.13.0+cpu", "2.11.0", False),
        ("2.15.0", "2.11.0", False),
        ("2.10.0", "2.10.0", True),
        ("2.11.0", "2.10.0", False),
        ("2.12.0", "2.10.0", False),
        ("3.11.0", "2.11.0", False),
    ],
)
def test_the_broken_torchaudio_pair_is_recognised(installed, torch, torchaudio, fits):
    installed.update(torch=torch, torchaudio=torchaudio)
    check = doctor.check_torchaudio()
    assert check.status == ("ok" if fits else "fail")
    assert check.remedy == ("" if fits else "python -m pip uninstall --yes torchaudio")


def test_where_training_is_installed_the_pair_is_mended_and_not_removed(installed):
    installed.update(torch="2.13.0", torchaudio="2.11.0", accelerate="1.15.0")
    check = doctor.check_torchaudio()
    assert check.remedy == 'python -m pip install "torch>=2.11,<2.13" "torchaudio>=2.11,<2.12"'


def test_torchaudio_is_not_needed(installed):
    assert doctor.check_torchaudio().status == "ok"
    del installed["torch"]
    installed["torchaudio"] = "2.11.0"
    assert doctor.check_torchaudio().status == "fail"


def test_versions_and_extras_are_listed(installed):
    checks = by_name(doctor.check_packages())
    assert checks["torch"] == doctor.Check("torch", "ok", "2.12.1+cpu")
    assert checks["extra lora"] == doctor.Check("extra lora", "ok", "peft 0.21.2")
    assert checks["extra train"].status == "ok" and "not installed: torchaudio" in checks["extra train"].found
    assert checks["extra train"].remedy == 'python -m pip install "spooftrace[train]"'


def test_a_torch_that_is_too_old_or_absent_fails_with_the_command(installed):
    installed["torch"] = "2.9.1"
    del installed["transformers"]
    checks = by_name(doctor.check_packages())
    assert checks["torch"].status == "fail" and "2.9.1" in checks["torch"].found
    assert checks["torch"].remedy == 'python -m pip install "torch>=2.10"'
    assert checks["transformers"].status == "fail" and checks["transformers"].found == "not installed"


def test_an_extra_of_the_wrong_version_is_a_warning(installed):
    installed["peft"] = "0.9.0"
    assert by_name(doctor.check_packages())["extra lora"].status == "warn"


def test_a_package_that_is_not_installed_is_told(installed):
    installed.clear()
    assert [check.status for check in doctor.check_packages()] == ["fail"]


def test_an_old_python_fails(monkeypatch):
    assert doctor.check_python().status == "ok"
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    assert doctor.check_python().status == "fail"


def test_all_codecs_of_the_wheel_are_found():
    (check,) = doctor.check_codecs()
    assert check.status == "ok" and all(name in check.found for name in doctor.CODECS)


def test_a_missing_codec_is_a_warning(monkeypatch):
    import soundfile

    formats = {name: text for name, text in soundfile.available_formats().items() if name != "MP3"}
    monkeypatch.setattr(soundfile, "available_formats", lambda: formats)
    monkeypatch.setattr(soundfile, "available_subtypes", lambda container: {"VORBIS": "", "PCM_16": ""})
    (check,) = doctor.check_codecs()
    assert check.status == "warn" and "without MP3, OPUS:" in check.found and "soundfile" in check.remedy


def test_a_libsndfile_that_does_not_load_fails(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    (check,) = doctor.check_codecs()
    assert check.status == "fail" and "soundfile" in check.remedy


def test_trial_imports_run_in_a_process_of_their_own():
    assert doctor.run_python("print('first'); print('last')") == (True, "last")
    assert doctor.run_python("raise OSError('undefined symbol')") == (False, "OSError: undefined symbol")
    passed, text = doctor.run_python("import os; os.abort()")
    assert not passed and ("signal" in text or "exit" in text)


def test_a_trial_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(doctor, "_SUBPROCESS_SECONDS", 0.2)
    assert doctor.run_python("import time; time.sleep(30)") == (False, "no answer within 0.2 s")


def test_broken_imports_point_to_torchaudio_where_that_is_the_reason(monkeypatch):
    monkeypatch.setattr(doctor, "run_python", lambda code: (False, "OSError: undefined symbol"))
    broken = doctor.Check("torchaudio", "fail", "does not load", "uninstall it")
    assert doctor.check_imports(broken).remedy == "uninstall it"
    assert "reinstall" in doctor.check_imports(doctor.Check("torchaudio", "ok", "")).remedy


def test_a_detector_that_is_absent_or_does_not_run_fails(monkeypatch, tmp_path):
    imports = doctor.Check("torch and transformers", "ok", "")
    monkeypatch.setattr(doctor, "_checkpoint_folder", lambda: None)
    assert doctor.check_detector(imports).status == "fail"
    monkeypatch.setattr(doctor, "_checkpoint_folder", lambda: tmp_path / "default")
    monkeypatch.setattr(doctor, "run_python", lambda code: (False, "CheckpointError: a tensor is missing"))
    assert "a tensor is missing" in doctor.check_detector(imports).found
    monkeypatch.setattr(doctor, "run_python", lambda code: (True, "a verdict on noise: abstain"))
    assert doctor.check_detector(imports).status == "ok"


def test_a_hub_that_answers_and_a_good_token_are_ok(hub, environment):
    environment.setenv("HF_TOKEN", f" {TOKEN}\n")
    checks = by_name(doctor_hub.check_hub())
    assert checks["hub"].status == "ok"
    assert checks["hub token"] == doctor.Check("hub token", "ok", "valid, user alice")
    assert hub.seen == [("/api/models", None), ("/api/whoami-v2", f"Bearer {TOKEN}")]


def test_a_refused_token_fails_and_stays_secret(hub, environment, tmp_path):
    (tmp_path / "token").write_text("hf_wrongwrongwrong")
    check = by_name(doctor_hub.check_hub())["hub token"]
    assert check.status == "fail" and "hf auth login" in check.remedy
    assert "hf_wrong" not in repr(check)


def test_the_token_follows_no_redirect(hub, environment):
    elsewhere = Hub()
    hub.redirect = elsewhere.url + "/api/whoami-v2"
    environment.setenv("HF_TOKEN", TOKEN)
    assert by_name(doctor_hub.check_hub())["hub token"].status == "warn"
    assert elsewhere.seen == []
    elsewhere.server.shutdown()
    elsewhere.server.server_close()


@pytest.mark.parametrize("token", ["hf_two\nlines", "hf_ünïcode", "hf two words"])
def test_a_malformed_token_is_neither_sent_nor_shown(hub, environment, token):
    environment.setenv("HF_TOKEN", token)
    check = by_name(doctor_hub.check_hub())["hub token"]
    assert check.status == "fail" and "hf_" not in repr(check) and "hf two" not in repr(check)
    assert len(hub.seen) == 1


def test_the_token_is_not_sent_unencrypted_over_a_network():
    check = doctor_hub.check_token("http://hub.example", TOKEN)
    assert check.status == "warn" and "unencrypted" in check.found


def test_a_hub_in_trouble_is_a_warning(hub, environment):
    hub.status["/api/models"] = 503
    environment.setenv("HF_TOKEN", TOKEN)
    checks = by_name(doctor_hub.check_hub())
    assert checks["hub"].status == "warn" and "503" in checks["hub"].found
    assert checks["hub token"].found == "present, not tried"


def test_a_hub_out_of_reach_is_a_warning(environment):
    environment.setenv("HF_ENDPOINT", "http://user:password@127.0.0.1:1")
    check = by_name(doctor_hub.check_hub())["hub"]
    assert check.status == "warn" and "password" not in repr(check)


def test_an_endpoint_that_is_no_web_address_fails(environment):
    environment.setenv("HF_ENDPOINT", "file:///etc")
    assert by_name(doctor_hub.check_hub())["hub"].status == "fail"


@pytest.mark.parametrize("variable", [None, "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_nothing_is_sent(hub, environment, variable):
    environment.setenv("HF_TOKEN", TOKEN)
    if variable:
        environment.setenv(variable, "1")
    checks = by_name(doctor_hub.check_hub(offline=variable is None))
    assert hub.seen == [] and checks["hub"].found.startswith("not tried")
    assert checks["hub token"].found == "present, not tried"


@pytest.fixture
def quick(monkeypatch, installed):
    """The command without the trials that load torch."""
    monkeypatch.setattr(doctor, "run_python", lambda code: (True, "fine"))
    monkeypatch.setattr(doctor, "_checkpoint_folder", lambda: doctor.Path("default"))


def test_the_command_exits_with_zero_and_shows_no_token(quick, hub, environment, capsys):
    environment.setenv("HF_TOKEN", TOKEN)
    assert main(["doctor"]) == 0
    output = capsys.readouterr().out
    assert "Nothing failed." in output and "valid, user alice" in output
    assert "secret" not in output


def test_the_command_exits_with_one_and_prints_the_one_command(quick, installed, hub, capsys):
    installed.update(torch="2.13.0", torchaudio="2.11.0", accelerate="1.15.0")
    assert main(["doctor", "--offline"]) == 1
    output = capsys.readouterr().out
    assert output.count("torchaudio>=2.11,<2.12") == output.count("fail ") == 1 and "1 of " in output
    assert "spooftrace[train]" not in output


def test_json_is_one_object(quick, hub, environment, capsys):
    environment.setenv("HF_TOKEN", TOKEN)
    assert main(["doctor", "--json"]) == 0
    output = capsys.readouterr().out
    report = json.loads(output)
    assert report["ok"] is True and TOKEN not in output
    assert set(report["checks"][0]) == {"name", "status", "found", "remedy"}


def test_the_doctor_itself_needs_neither_torch_nor_transformers_nor_the_hub_client():
    code = """
import sys
for name in ("torch", "torchaudio", "transformers", "huggingface_hub", "numpy"):
    sys.modules[name] = None
from spooftrace import doctor, doctor_hub
list(doctor.check_packages()), doctor.check_torchaudio(), list(doctor.check_codecs())
print([check.status for check in doctor_hub.check_hub(offline=True)])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "['ok', 'ok']"


def test_a_user_without_a_home_has_no_token(monkeypatch):
    """As in a container under a user id that no account has."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HOME", "HF_TOKEN_PATH", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert doctor_hub.find_token() is None
