"""A way from this machine to a pod's port, through the Kubernetes API server: no NodePort, no ingress."""

import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import portforward

from adapters.base import BenchError
from adapters.kube import Kube, explained


class Forward:
    """Listens on loopback; each connection is carried to a pod of `app`, whichever that is at the moment.

    A ready one if there is: a server that is too busy to answer its probe in time is slow, not gone. Lasts as long
    as this process. A connection that cannot be carried is closed, which its client sees as an answer that never
    came.
    """

    def __init__(self, kube: Kube, namespace: str, app: str, port: int) -> None:
        self._kube, self._namespace, self._app, self._port = kube, namespace, app, port
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, name=f"forward-{app}", daemon=True).start()

    @property
    def url(self) -> str:
        """Where to reach the pod: `http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        """No new connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept; close does not
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._carry, args=(near,), name=f"carry-{self._app}", daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        with near:
            try:
                far = self._connect()
            except (ApiException, BenchError, OSError, LookupError):
                return
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(target=_pour, args=(far, near), daemon=True)
            back.start()
            _pour(near, far)
            back.join()
            far.close()

    def _connect(self) -> Any:
        """A connection to a pod. Raises `LookupError` where none runs, and what the client raises."""
        with explained(f"looking for a pod of {self._app}"):
            pods = self._kube.core.list_namespaced_pod(
                self._namespace, label_selector=f"app={self._app}"
            ).items
        name = chosen(pods)
        # A client of its own: for as long as it lasts, the call replaces how its client sends requests.
        core = client.CoreV1Api(client.ApiClient(self._kube.api.configuration))
        carried = portforward(
            core.connect_get_namespaced_pod_portforward, name, self._namespace, ports=str(self._port)
        )
        return carried.socket(self._port)


def chosen(pods: Iterable[Any]) -> str:
    """The name of the pod to go to: a running one, ready before others. Raises `LookupError` where none runs."""
    running = [pod for pod in pods if pod.status.phase == "Running" and not pod.metadata.deletion_timestamp]
    if not running:
        raise LookupError("no pod runs")
    return str(max(running, key=_is_ready).metadata.name)


def _is_ready(pod: Any) -> bool:
    return any(each.type == "Ready" and each.status == "True" for each in pod.status.conditions or [])


def _pour(source: Any, into: Any) -> None:
    """Everything that arrives at one end, to the other; then says that no more will come."""
    with suppress(OSError):
        while data := source.recv(65536):
            into.sendall(data)
    with suppress(OSError):
        into.shutdown(socket.SHUT_WR)
