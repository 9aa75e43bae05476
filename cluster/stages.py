"""Stages cached by content: a stage runs again only when its inputs change or its outputs are gone."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from cluster.errors import ClusterError
from cluster.state import Paths, append_json, write_atomic

Outputs = dict[str, str]
State = Literal["start", "done", "cached", "failed", "note"]
TAIL_LINES = 15


@dataclass(frozen=True)
class Progress:
    """One thing that happened during `up` or `down`, for whoever shows it."""

    stage: str
    state: State
    seconds: float = 0.0
    detail: str = ""


Report = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """The report of a caller that wants none."""


def digest_text(*parts: str) -> str:
    """sha256 over texts, each with its length, so that no two lists of parts look alike."""
    total = hashlib.sha256()
    for part in parts:
        raw = part.encode()
        total.update(f"{len(raw)}:".encode() + raw)
    return total.hexdigest()


def digest_files(base: Path, paths: Iterable[Path]) -> str:
    """sha256 over the files named (folders: all below, compiled Python aside): names, modes, contents."""
    files: set[Path] = set()
    for path in paths:
        found = path.rglob("*") if path.is_dir() else [path]
        files.update(f for f in found if f.is_file() and "__pycache__" not in f.parts)
    total = hashlib.sha256()
    for file in sorted(files):
        executable = "x" if file.stat().st_mode & 0o100 else "-"
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        total.update(f"{file.relative_to(base)}\0{executable}\0{content}\n".encode())
    return total.hexdigest()


@dataclass
class Log:
    """The log file of one stage, and the way it runs commands."""

    path: Path
    stream: IO[bytes]
    stage: Stages
    deadline: float | None = None

    def note(self, text: str) -> None:
        """A line of our own in the log."""
        self.stream.write(f"# {text}\n".encode())
        self.stream.flush()

    def run(
        self,
        command: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: IO[bytes] | bytes | None = None,
        timeout: float | None = None,
    ) -> None:
        """Run a command with its output in the log; CommandFailed when it fails or takes too long (seconds)."""
        self.note("$ " + " ".join(str(part) for part in command))
        given = subprocess.PIPE if isinstance(stdin, bytes) else (stdin or subprocess.DEVNULL)
        process = self.stage.spawn(
            [str(part) for part in command],
            cwd=cwd,
            env=None if env is None else dict(env),
            stdin=given,
            stdout=self.stream,
            stderr=subprocess.STDOUT,
        )
        try:
            process.communicate(stdin if isinstance(stdin, bytes) else None, timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise CommandFailed(f"`{command[0]}` took more than {timeout:.0f} s") from None
        except BaseException:
            # Ctrl-C reaches a terminal's whole process group, but a signal may also be meant for us alone.
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
        finally:
            self.stage.forget(process)
        if process.returncode:
            raise CommandFailed(f"`{Path(command[0]).name}` ended with exit code {process.returncode}")

    def output(self, command: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> str:
        """A short command's standard output, stripped; its errors go to the log."""
        self.note("$ " + " ".join(str(part) for part in command))
        done = subprocess.run(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.stream,
            env=None if env is None else dict(env),
            check=False,
        )
        if done.returncode:
            raise CommandFailed(f"`{Path(command[0]).name}` ended with exit code {done.returncode}")
        return done.stdout.decode(errors="replace").strip()


class CommandFailed(Exception):
    """A command of a stage failed; the stage's log has its output."""


def tail(path: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log, empty when there is none."""
    if not path.is_file():
        return ""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


@dataclass
class Stages:
    """Runs stages for one `up`: stamps, logs, timings, progress, and the commands under way."""

    where: Paths
    report: Report = silent
    verb: str = "up"
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    _mutex: threading.Lock = field(default_factory=threading.Lock)
    _stopped: bool = False

    def run(
        self,
        name: str,
        inputs: Mapping[str, object],
        build: Callable[[Log], Outputs],
        valid: Callable[[Outputs], bool] = lambda _: True,
    ) -> Outputs:
        """The stage's outputs: remembered when the inputs are the same and `valid` still says so, else built.

        The stamp is written last and atomically, so a stage killed midway has none, or its old one with other
        inputs. Raises ClusterError with the end of the stage's log.
        """
        began = time.monotonic()
        key = digest_text(name, json.dumps(dict(inputs), sort_keys=True, default=str))
        remembered = self._stamp(name, key)
        self.report(Progress(name, "start"))
        if remembered is not None and valid(remembered):
            return self._finished(name, began, remembered, cached=True)
        self.where.logs.mkdir(parents=True, exist_ok=True)
        path = self.where.logs / f"{name}.log"
        try:
            with path.open("wb") as stream:
                outputs = build(Log(path, stream, self))
        except (CommandFailed, OSError) as problem:
            seconds = time.monotonic() - began
            self.report(Progress(name, "failed", seconds, str(problem)))
            raise ClusterError(
                f"Stage {name} failed: {problem}. The end of {path}:\n{_indent(tail(path))}",
                kept="the stages before it; they will not run again.",
                remedy=f"read the log, then `bench cluster {self.verb}` goes on from this stage.",
            ) from problem
        except ClusterError as problem:
            self.report(Progress(name, "failed", time.monotonic() - began, problem.what))
            raise
        stamp = {"key": key, "outputs": outputs, "inputs": {k: str(v) for k, v in inputs.items()}}
        write_atomic(self.where.stages / f"{name}.json", json.dumps(stamp, indent=2, sort_keys=True) + "\n")
        return self._finished(name, began, outputs, cached=False)

    def note(self, stage: str, text: str) -> None:
        """Tell the user something that is not a stage."""
        self.report(Progress(stage, "note", detail=text))

    def spawn(self, command: list[str], **options: object) -> subprocess.Popen[bytes]:
        """Start a command that `stop` can end."""
        with self._mutex:
            if self._stopped:
                raise CommandFailed("interrupted")
            process: subprocess.Popen[bytes] = subprocess.Popen(command, **options)  # type: ignore[call-overload]
            self._running.add(process)
        return process

    def forget(self, process: subprocess.Popen[bytes]) -> None:
        """The command has ended."""
        with self._mutex:
            self._running.discard(process)

    def stop(self) -> None:
        """End every command under way and start no other: one lane failed or the user interrupted."""
        with self._mutex:
            self._stopped = True
            for process in self._running:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()

    def _stamp(self, name: str, key: str) -> Outputs | None:
        try:
            stamp = json.loads((self.where.stages / f"{name}.json").read_text())
            return dict(stamp["outputs"]) if stamp["key"] == key else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _finished(self, name: str, began: float, outputs: Outputs, *, cached: bool) -> Outputs:
        seconds = time.monotonic() - began
        self.report(Progress(name, "cached" if cached else "done", seconds, outputs.get("summary", "")))
        append_json(
            self.where.timings,
            {"at": time.time(), "stage": name, "cached": cached, "seconds": round(seconds, 3)},
        )
        return outputs


def lanes(stages: Stages, *work: Callable[[], None]) -> None:
    """Run the functions side by side; the first failure, or Ctrl-C, ends the commands of the others."""
    problems: list[BaseException] = []

    def guarded(function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as problem:  # noqa: BLE001 - carried to the caller's thread, which raises it
            problems.append(problem)
            stages.stop()

    threads = [threading.Thread(target=guarded, args=(function,), daemon=True) for function in work]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)
    except KeyboardInterrupt:
        stages.stop()
        for thread in threads:
            thread.join(10)
        raise
    if problems:
        raise problems[0]


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
