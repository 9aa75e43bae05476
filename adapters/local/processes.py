"""Server processes on this machine: started in groups of their own, logged to files, ended by id, never orphaned.

Three things keep track of them: the handles of this command; a line per start in `servers.jsonl`, with the
process's start time, so that a number that was given away again is never mistaken; and a variable in the
environment of everything that is started, which their own children inherit. A keeper process (`python -m
adapters.local.processes FOLDER`) holds the other end of a pipe and ends all of them when this command is gone.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from adapters.base import BenchError
from adapters.local.network import is_taken

MARK = "ORCHESTRATOR_BENCH_STATE"
"""Environment variable that names the state folder a process belongs to."""
LOG_LINES = 15
STOP_SECONDS = 15.0


@dataclass(frozen=True)
class Server:
    """One process that was started, and where its output goes."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path
    port: int | None = None
    """The port of 127.0.0.1 it was told to listen on, where it was."""

    @property
    def pid(self) -> int:
        """Also its process group and session."""
        return self.process.pid

    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def listens(self) -> bool:
        """Whether its port is held by it, or by what it started; True for one without a port."""
        return self.port is None or self.port in _listening(_family(self.pid))

    def robbed(self) -> bool:
        """Whether its port is held by somebody else."""
        return self.port is not None and is_taken(self.port) and not self.listens()

    def last_lines(self) -> str:
        """The end of its log."""
        try:
            text = self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-LOG_LINES:])


class Servers:
    """The processes of one command in one state folder."""

    def __init__(self, root: Path, book: Path, logs: Path) -> None:
        self._root, self._book, self._logs = root, book, logs
        self._running: dict[str, Server] = {}
        self._keeper: subprocess.Popen[bytes] | None = None

    def keep(self) -> None:
        """Start the keeper: from now on nothing outlives this command."""
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", "adapters.local.processes", str(self._root), str(self._book)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        env: Mapping[str, str],
        folder: Path,
        port: int | None = None,
    ) -> Server:
        """Start a process in a session of its own; a process of that name that still runs is ended first.

        `port`: where it is told to listen. It is healthy once it does: that anybody answers there is not enough.
        Raises `BenchError` where the program cannot be started.
        """
        self.stop(name)
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{name}.log"
        with log.open("wb") as out:
            try:
                process = subprocess.Popen(
                    [str(word) for word in command],
                    cwd=folder,
                    env={**env, MARK: str(self._root)},
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise BenchError(f"{name} could not be started: {error}", "bench doctor") from error
        server = Server(name, process, log, port)
        self._running[name] = server
        line = {"name": name, "pid": server.pid, "created": _created(server.pid)}
        with self._book.open("a", encoding="utf-8") as book:
            book.write(json.dumps(line) + "\n")
        return server

    def running(self, name: str) -> Server | None:
        """The process of that name, if it runs."""
        server = self._running.get(name)
        return server if server is not None and server.alive() else None

    def names(self) -> list[str]:
        """Of those that run."""
        return [name for name, server in self._running.items() if server.alive()]

    def used(self, name: str) -> tuple[dict[str, float], int] | None:
        """CPU seconds so far of each process of a server, and its memory in bytes (PSS); None where it does not run."""
        server = self.running(name)
        if server is None:
            return None
        cpu, memory = {}, 0
        for process in _family(server.pid):
            with suppress(psutil.Error):
                times = process.cpu_times()
                cpu[f"{process.pid}@{process.create_time()}"] = times.user + times.system
                memory += process.memory_full_info().pss
        return cpu, memory

    def wait_until(self, healthy: Callable[[], str], names: Sequence[str], seconds: float) -> None:
        """Wait until `healthy` answers with the empty string and each of `names` listens on its own port.

        Raises `BenchError` with the last lines of the log when one of `names` ends before, somebody else holds its
        port, or time runs out.
        """
        end = time.monotonic() + seconds
        servers = [self._running[name] for name in names if name in self._running]
        while wrong := healthy() or _unheard(servers):
            for server in servers:
                if server.robbed():
                    raise BenchError(
                        f"port {server.port} of 127.0.0.1 was taken by another process before {server.name} could "
                        "listen on it",
                        "the same command again: it takes a free port each time",
                        "what was stored so far",
                    )
                if not server.alive():
                    raise BenchError(
                        f"{server.name} ended with code {server.process.returncode} while it started:\n"
                        + server.last_lines(),
                        f"see {server.log}",
                    )
            if time.monotonic() > end:
                logs = "\n".join(server.last_lines() for server in servers)
                raise BenchError(
                    f"{', '.join(names)}: not healthy after {seconds:.0f} s: {wrong}\n{logs}",
                    f"see {self._logs}",
                )
            time.sleep(0.1)

    def stop(self, name: str) -> None:
        """End a process and everything it started: SIGTERM, then SIGKILL. Nothing where there is none."""
        server = self._running.pop(name, None)
        if server is not None:
            _end(_family(server.pid), STOP_SECONDS)
            server.process.wait()

    def close(self) -> None:
        """End everything, the keeper last."""
        for name in reversed(list(self._running)):
            self.stop(name)
        sweep(self._root, self._book)
        if self._keeper is not None:
            with suppress(OSError):
                self._keeper.communicate()
            self._keeper = None


def http_health(url: str, expect: Callable[[httpx.Response], str] | None = None) -> str:
    """Empty where `url` answers below 300 and `expect` finds nothing wrong; otherwise what is wrong."""
    try:
        answer = httpx.get(url, timeout=5, trust_env=False)
    except httpx.HTTPError as error:
        return f"{url}: {error or type(error).__name__}"
    if answer.status_code >= 300:
        return f"{url}: {answer.status_code}"
    return expect(answer) if expect else ""


def leftovers(root: Path, book: Path) -> list[psutil.Process]:
    """Processes of this state folder that run although nobody holds it; never anybody else's."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == str(root):
                found[process.pid] = process
    for line in _lines(book):
        with suppress(psutil.Error):
            process = psutil.Process(int(line["pid"]))
            if process.create_time() == line["created"]:
                found.update((p.pid, p) for p in _family(process.pid))
    found.pop(os.getpid(), None)
    return [process for process in found.values() if _runs(process)]


def sweep(root: Path, book: Path) -> list[str]:
    """End what is left over in this state folder; returns the names of what was ended."""
    left = leftovers(root, book)
    names = []
    for process in left:
        with suppress(psutil.Error):
            names.append(f"{process.name()} ({process.pid})")
    _end(left, 5.0)
    book.unlink(missing_ok=True)
    return names


def _unheard(servers: Sequence[Server]) -> str:
    return "".join(f"{s.name} does not listen on port {s.port} yet" for s in servers if not s.listens())


def _listening(processes: Sequence[psutil.Process]) -> set[int]:
    ports: set[int] = set()
    for process in processes:
        with suppress(psutil.Error):
            ports.update(
                c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN
            )
    return ports


def _lines(book: Path) -> list[dict[str, float]]:
    try:
        lines = book.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        with suppress(ValueError):  # torn by a kill
            found.append(json.loads(line))
    return found


def _created(pid: int) -> float:
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return 0.0


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _family(pid: int) -> list[psutil.Process]:
    """A process, its descendants, and whoever else is in its session."""
    found: dict[int, psutil.Process] = {}
    with suppress(psutil.Error):
        leader = psutil.Process(pid)
        found[pid] = leader
        found.update((child.pid, child) for child in leader.children(recursive=True))
    for process in psutil.process_iter():
        with suppress(OSError):
            if os.getsid(process.pid) == pid:
                found[process.pid] = process
    return list(found.values())


def _end(processes: Sequence[psutil.Process], seconds: float) -> None:
    """SIGTERM to all, SIGKILL to those that are still there after `seconds`; returns when all are gone."""
    for process in processes:
        with suppress(psutil.Error):
            process.terminate()
    _, stubborn = psutil.wait_procs(processes, timeout=seconds)
    for process in stubborn:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(stubborn, timeout=5)


def _keep(root: Path, book: Path) -> None:
    """Wait until the pipe closes, then end what is left."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdin.buffer.read()
    sweep(root, book)


if __name__ == "__main__":
    _keep(Path(sys.argv[1]), Path(sys.argv[2]))
