"""Python processes that start at once: forked from one that has imported torch, and nothing that knows a Hub.

    done = warm_python.run("-c", program, argument, env=hub.env())
    done = warm_python.run("-m", "spooftrace", "publish", folder, cwd=tmp_path)

Importing torch and what transformers imports of it and of scipy takes most of the time of a short program. A program
starts here with these imported already, and with everything else as in a new process: its own environment, folder,
arguments, standard streams and `__main__`; `sys.path` as a new interpreter has it. transformers, huggingface_hub and
spooftrace are imported by the program itself, so that they read its environment and may be forbidden.
Tests of what a program imports, and of how quickly, need real processes.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path


# What transformers imports besides its own, without anything that starts threads (a process that forks has none).
PRELOADED = (
    "torch",
    "torch._dynamo",
    "torch.distributed.tensor",
    "torch.export",
    "torch.utils._debug_mode",
    "scipy.optimize",
)


# --- in the tests ----------------------------------------------------------------------------------------------------


def run(
    *command: object, env: dict[str, str] | None = None, cwd: Path | None = None, input: str = "", check: bool = False
) -> subprocess.CompletedProcess:
    """
    What `subprocess.run([sys.executable, *command], capture_output=True, text=True)` does, sooner.

    Args:
        command: `-c PROGRAM`, `-m MODULE` or a file, and its arguments.
    """
    command = [str(word) for word in command]
    call = {"command": command, "env": dict(env or os.environ), "cwd": str(cwd or Path.cwd())}
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")) for _ in range(4)]
        for file, text in zip(files, (json.dumps(call), input), strict=False):
            file.write(text)
            file.seek(0)
        code = _ask([file.fileno() for file in files])
        printed = [file.seek(0) or file.read() for file in files[2:]]
    done = subprocess.CompletedProcess([sys.executable, *command], code, *printed)
    if check and code:
        raise AssertionError(f"exit code {code}: {done.stderr}")
    return done


def run_together(*command: object) -> None:
    """
    Runs a program in two processes that `torch.distributed` brings together, as a launcher does.

    Raises:
        AssertionError: where one of them fails.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environments = [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in (0, 1)]
    _server()  # one for both
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda environment: run(*command, env=environment, check=True), environments))


def _ask(descriptors: list[int]) -> int:
    answer, theirs = os.pipe()
    try:
        socket.send_fds(_server(), [b"!"], [*descriptors, theirs])
    finally:
        os.close(theirs)
    with os.fdopen(answer) as stream:
        return int(stream.read())


@cache
def _server() -> socket.socket:
    """One for a process of tests; it ends when that process does."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, __file__, str(theirs.fileno())]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # each call has one
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment)
    atexit.register(process.kill)
    return ours


# --- in the server and its children ----------------------------------------------------------------------------------


def serve(channel: socket.socket) -> list[int]:
    """Forks for every call; returns in a process that is to become the program, with the descriptors of the call."""
    while True:
        word, descriptors, _, _ = socket.recv_fds(channel, 1, 5)
        if not word:
            os._exit(0)
        if os.fork() == 0:
            return _fork_and_tell(descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _fork_and_tell(descriptors: list[int]) -> list[int]:
    *files, answer = descriptors
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if (child := os.fork()) == 0:
        os.close(answer)
        return files
    _, status = os.waitpid(child, 0)
    os.write(answer, str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def become(request: int, *streams: int) -> None:
    """Runs a program as `python` would."""
    with os.fdopen(request) as file:
        call = json.load(file)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(call["env"])
    tempfile.tempdir = None  # looked up already, by another TMPDIR
    os.chdir(call["cwd"])
    sys.path[:0] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    kind, *words = call["command"]
    if kind == "-c":
        program, *words = words
        sys.argv[:], main = ["-c", *words], types.ModuleType("__main__")
        sys.path.insert(0, "")
        sys.modules["__main__"] = main
        exec(compile(program, "<string>", "exec"), main.__dict__)  # noqa: S102
    elif kind == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv[:] = words
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(kind).resolve().parent))
        sys.argv[:] = [kind, *words]
        runpy.run_path(kind, run_name="__main__")


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Lets a program end after its threads and `atexit` functions; to take modules down would take half a second more."""
    code = 1

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    atexit.register(leave)  # before those of the program, so that it comes last
    try:
        yield
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes that tell how a program ended
    del sys.path[0]  # the folder of this file
    for module in PRELOADED:
        importlib.import_module(module)
    gc.freeze()  # what is imported here stays: no need to look through it again in every process
    call = serve(socket.socket(fileno=int(sys.argv[1])))
    with ending_at_once():
        become(*call)
