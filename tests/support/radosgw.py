"""Run a real S3 storage server on loopback: Ceph's gateway with one monitor and one store in memory.

For benchmarks, `PYTHONPATH=tests python -m support.radosgw` runs a server until it is interrupted. Add `tcp_nodelay=0`
for Ceph's default.
"""

import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.httpsession import URLLib3Session

from support.programs import free_port, need

KEY = "test"
"""User, access key and secret."""
FRONTEND = "tcp_nodelay=1"
"""Setting of the gateway's replies. With Ceph's default, 0, the end of a reply waits until the client acknowledges its
beginning. Clients delay the acknowledgement by 40 ms."""
PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "radosgw")

CONFIGURATION = """
[global]
fsid = {fsid}
mon_initial_members = a
mon_host = {monitor}
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_mon_client_mode = crc
mon_allow_pool_size_one = true
mon_data_avail_crit = 0
mon_data = {folder}/mon
osd_data = {folder}/osd
rgw_data = {folder}/rgw
run_dir = {folder}/run
log_file = {folder}/$name.log
admin_socket =
osd_objectstore = memstore
memstore_device_bytes = 16000000000
osd_crush_chooseleaf_type = 0
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pg_autoscale_mode = off
"""


@contextmanager
def serving(folder: Path, frontend: str = FRONTEND) -> Iterator[str]:
    """Run the gateway and yield its address. Its files are in `folder`."""
    for program in PROGRAMS:
        need(program, "radosgw ceph-mon ceph-osd ceph-common")
    ceph = _Ceph(folder)
    with ExitStack() as daemons:
        ceph.run("ceph-mon", "-i", "a", "--mkfs", "--monmap", ceph.monitor_map())
        daemons.enter_context(ceph.daemon("ceph-mon", "-i", "a"))
        identity = str(uuid4())
        ceph.run("ceph", "osd", "new", identity)
        ceph.run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", identity)
        daemons.enter_context(ceph.daemon("ceph-osd", "-i", "0"))
        first = (f"--uid={KEY}", f"--display-name={KEY}", f"--access-key={KEY}", f"--secret={KEY}")
        ceph.run("radosgw-admin", "-n", "client.admin", "user", "create", *first, "--caps=users=*;user-policy=*")
        port = free_port()
        endpoint = f"beast endpoint=127.0.0.1:{port} {frontend}"
        daemons.enter_context(ceph.daemon("radosgw", "-n", "client.admin", "--rgw_frontends", endpoint))
        url = f"http://127.0.0.1:{port}"
        _wait_for(url)
        yield url


def create_user(url: str, name: str) -> None:
    """Create a user. Its name is also its access key and its secret.

    The user has only the rights of the policies that the user `KEY` attaches to it (IAM's PutUserPolicy). This function
    uses the gateway's API because `radosgw-admin` takes seconds for each user.
    """
    user = {"uid": name, "display-name": name, "access-key": name, "secret-key": name}
    request = AWSRequest("PUT", f"{url}/admin/user", params=user)
    S3SigV4Auth(Credentials(KEY, KEY), "s3", "us-east-1").add_auth(request)
    answer = URLLib3Session().send(request.prepare())
    assert answer.status_code == 200, answer.text


class _Ceph:
    """A Ceph cluster and its configuration."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._fsid = folder, str(uuid4())
        self._monitor = f"[v2:127.0.0.1:{free_port()}/0,v1:127.0.0.1:{free_port()}/0]"
        for name in ("mon", "osd", "rgw", "run"):
            (folder / name).mkdir(parents=True)
        text = CONFIGURATION.format(folder=folder, fsid=self._fsid, monitor=self._monitor)
        (folder / "ceph.conf").write_text(text)

    def monitor_map(self) -> str:
        path = self._folder / "monmap"
        self.run("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", self._monitor, str(path))
        return str(path)

    def run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(self._command(program, arguments), capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, f"{done.args}: {done.stderr}"

    @contextmanager
    def daemon(self, program: str, *arguments: str) -> Iterator[None]:
        command = [*self._command(program, arguments), "-f"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                yield
            finally:
                process.kill()

    def _command(self, program: str, arguments: tuple[str, ...]) -> list[str]:
        return [program, "--conf", str(self._folder / "ceph.conf"), *arguments]


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 240
    while True:
        try:
            urllib.request.urlopen(url, timeout=60).close()
        except urllib.error.URLError:
            assert time.monotonic() < deadline, f"nothing answers at {url}"
            time.sleep(0.2)
        else:
            return


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    how = sys.argv[1] if len(sys.argv) > 1 else FRONTEND
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder, "ceph"), frontend=how) as url:
        print(url, flush=True)
        time.sleep(24 * 3600)
