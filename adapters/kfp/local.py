"""Kubeflow Pipelines on this machine: its SDK's local runner, which is a library and has no server and no API."""

import shutil
import time
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path

from adapters.base import (
    BenchError,
    Component,
    Configuration,
    RunHandle,
    RunOutcome,
    RunRequest,
    Status,
    Timeline,
)
from adapters.kfp import journal
from adapters.local import envs
from adapters.local.target import LocalTarget

EXTRA = "kfp-local"
NAME = "kfp"
CONFIGURATIONS = (
    Configuration(
        name="default",
        task="process",
        knob="SubprocessRunner",
        value="use_venv=False",
        source="https://kubeflow-pipelines.readthedocs.io/en/sdk-2.17.0/source/local.html",
    ),
)
LOOK_SECONDS = 0.005
ENDINGS = {"SUCCESS": Status.SUCCEEDED, "FAILURE": Status.FAILED}


class KfpLocalRuntime:
    """The SDK's environment and a folder: nothing runs between two runs."""

    def __init__(self, where: LocalTarget) -> None:
        self.where = where

    @property
    def _stamp(self) -> Path:
        return self.where.state.root / NAME / "configuration"

    def deploy(self, configuration: str) -> None:
        """Make the environment. Raises `BenchError` for an unknown configuration."""
        if configuration not in {known.name for known in CONFIGURATIONS}:
            raise BenchError(f"kfp has no configuration '{configuration}'", "one of: default")
        self.where.python(EXTRA)
        self.where.state.folder(NAME)
        self._stamp.write_text(configuration, encoding="utf-8")

    def undeploy(self) -> None:
        """End all runs and remove what they left, but for the artifacts."""
        self.scale(False)
        shutil.rmtree(self._stamp.parent, ignore_errors=True)

    def scale(self, on: bool) -> None:
        """Off: end the runs that are under way. There is nothing else to stop, and nothing to start."""
        if not on:
            for folder in (self._stamp.parent / "runs").glob("*"):
                self.where.servers.stop(folder.name)

    def health(self) -> str:
        """Empty where the environment is there."""
        if not self._stamp.exists():
            return "kfp is not deployed"
        return "" if envs.is_ready(self.where.state, EXTRA) else "the environment of kfp is not complete"

    def components(self) -> tuple[Component, ...]:
        """None: the runner is part of the run."""
        return ()

    def versions(self) -> Mapping[str, str]:
        """Of the SDK, and how it is asked to run tasks."""
        site = [str(path) for path in self.where.python(EXTRA).parents[1].glob("lib/python*/site-packages")]
        (kfp,) = distributions(name="kfp", path=site)
        return {"kfp": kfp.version, "kfp_runner": "SubprocessRunner(use_venv=False), no cache"}


class KfpLocalDriver:
    """A run is a process of ours that calls the pipeline function; its folder holds what KFP logged."""

    def __init__(self, where: LocalTarget) -> None:
        self.where = where

    def _folder(self, run_id: str) -> Path:
        return self.where.state.root / NAME / "runs" / run_id

    def prepare(self, request: RunRequest) -> None:
        """See to the environment. The definition is compiled by the run itself, as the SDK does it."""
        self.where.python(EXTRA)

    def submit(self, request: RunRequest) -> RunHandle:
        """Start the run's process. The SDK knows no run ids: a folder of that name says that it was started."""
        folder = self._folder(request.run_id)
        submit_ns = time.time_ns()
        if not folder.exists():
            (folder / "tmp").mkdir(parents=True)
            (folder / journal.REQUEST).write_text(request.model_dump_json(), encoding="utf-8")
            env = {**self.where.env_of(EXTRA), "TMPDIR": str(folder / "tmp"), "PYTHONUNBUFFERED": "1"}
            if request.retries_as_shipped:
                env["STEP_RETRIES"] = "0"
            command = (self.where.python(EXTRA), "-m", "adapters.kfp.local_runner", str(folder))
            self.where.servers.start(request.run_id, command, env, folder)
        return RunHandle(
            run_id=request.run_id,
            native_id=request.run_id,
            submit_ns=submit_ns,
            accepted_ns=time.time_ns(),
        )

    def wait(self, handle: RunHandle, deadline_seconds: float) -> RunOutcome:
        """Look every few milliseconds whether the process has ended; how it ended is what KFP logged last."""
        end = time.monotonic() + deadline_seconds
        last_ns = handle.accepted_ns
        while running := self.where.servers.running(handle.run_id):
            last_ns = time.time_ns()
            if time.monotonic() > end:
                break
            time.sleep(LOOK_SECONDS)
        first_ns, monotonic_ns = time.time_ns(), time.monotonic_ns()
        if running:
            status, native, reason = Status.TIMEOUT, "", f"still running after {deadline_seconds:.0f} s"
        elif not self._folder(handle.run_id).exists():
            status, native, reason = Status.CANCELLED, "", "the run was cancelled"
        else:
            lines = journal.read(self._folder(handle.run_id))
            native = journal.ending(lines)
            status = ENDINGS.get(native, Status.FAILED)
            reason = journal.why(lines) if native else f"the runner ended: {self._last_line(handle.run_id)}"
        return RunOutcome(
            status=status,
            last_non_terminal_ns=last_ns,
            first_terminal_ns=first_ns,
            first_terminal_monotonic_ns=monotonic_ns,
            reason=reason,
            native_status=native,
        )

    def cancel(self, run_id: str) -> bool:
        """End the run's processes and remove its folder; its artifacts stay, as registered models are among them."""
        folder = self._folder(run_id)
        if not folder.exists():
            return False
        self.where.servers.stop(run_id)
        shutil.rmtree(folder)
        return True

    def timeline(self, handle: RunHandle) -> Timeline:
        """By the times of KFP's log records."""
        return journal.timeline_of(handle.run_id, journal.read(self._folder(handle.run_id)))

    def logs(self, handle: RunHandle, step: str) -> str:
        """What the step printed into the run's one stream."""
        return journal.printed(self._log(handle.run_id), step)

    def _last_line(self, run_id: str) -> str:
        return next(reversed(self._log(run_id).strip().splitlines()), "it said nothing")

    def _log(self, run_id: str) -> str:
        path = self.where.state.logs / f"{run_id}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
