"""A program that is forked finds what it would find in a new process, and ends as there."""

import subprocess
import sys

import pytest
import warm_python


LOOK = """
import json, os, sys
print(json.dumps([sys.argv, sys.path, __name__, os.getcwd(), dict(os.environ), sys.stdin.read()]))
print("heard", file=sys.stderr)
"""


def anew(*command, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize("kind", ["program", "file", "module"])
def test_it_finds_what_a_new_process_finds(tmp_path, kind):
    (tmp_path / "looking.py").write_text(LOOK)
    command = {"program": ["-c", LOOK], "file": [tmp_path / "looking.py"], "module": ["-m", "looking"]}[kind]
    surroundings = {
        "env": {"PYTHONPATH": "/somewhere", "WORD": "ä", "LC_ALL": "C.UTF-8"},
        "cwd": tmp_path,
        "input": "what is said",
    }
    found, expected = (run(*command, "one", "--two", **surroundings) for run in (warm_python.run, anew))
    assert (found.stdout, found.stderr, found.returncode) == (expected.stdout, "heard\n", 0)


@pytest.mark.parametrize(
    "program",
    [
        "",
        "import sys; sys.exit(3)",
        "raise SystemExit",
        "raise SystemExit('said')",
        "1 / 0",
        "import os; os.kill(os.getpid(), 9)",
    ],
)
def test_it_ends_as_a_new_process_ends(program):
    found, expected = warm_python.run("-c", program), anew("-c", program)
    assert found.returncode == expected.returncode
    assert found.stderr.splitlines()[-1:] == expected.stderr.splitlines()[-1:]


def test_threads_and_functions_for_the_end_come_before_it():
    program = """
import atexit, threading, time
atexit.register(print, "end")
threading.Thread(target=lambda: (time.sleep(0.05), print("thread"))).start()
"""
    assert warm_python.run("-c", program).stdout == "thread\nend\n"


def test_nothing_that_reads_the_address_of_a_hub_is_imported_yet():
    names = warm_python.run("-c", "import sys; print(*sys.modules)").stdout.split()
    assert "torch" in names
    assert not {"huggingface_hub", "transformers", "datasets", "spooftrace", "pyarrow"} & set(names)


def test_a_failure_is_told_where_it_was_not_expected():
    with pytest.raises(AssertionError, match="(?s)exit code 1: .*ZeroDivisionError"):
        warm_python.run("-c", "1 / 0", check=True)
