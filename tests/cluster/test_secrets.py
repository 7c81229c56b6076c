"""Secrets on real machines: they reach services, and nothing else has them."""

import base64
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from contrib.testbed import Cluster, Machine
from tests import software_tpm
from tests.cluster.operator import Operator
from tests.requirements import require

VALUE = "correct-horse-battery-staple-7391"
SOCKET = "/run/fleet/credentials.sock"
READER = f"""\
[Service]
DynamicUser=yes
ExecStart=/bin/sh -c 'exec sleep infinity'
ExecStartPre=/bin/sh -c 'sha256sum < "$CREDENTIALS_DIRECTORY/db.pw" > "$STATE_DIRECTORY/sum-$(date +%%s%%N)"'
StateDirectory=reader
LoadCredential=db.pw:{SOCKET}

[X-Fleet]
Secret=db.pw
"""


def fleetctl(machine: Machine, *arguments: str, value: str = "", check: bool = True) -> CompletedProcess[str]:
    """Run fleetctl on a machine, with this on its standard input."""
    return machine.run(["fleetctl", *arguments], stdin=value, check=check)


def read_sums(machine: Machine) -> list[str]:
    """What the unit has read at each of its starts on this machine, as SHA-256."""
    folder = machine.root / "var/lib/private/reader"
    files = sorted(folder.glob("sum-*")) if folder.exists() else []
    return [file.read_text().split()[0] for file in files]


def sum_of(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


def find_on(machine: Machine, text: str) -> list[str]:
    """The places on a machine where this text is. It is in no argument here."""
    script = """
    read -r text
    search() { echo "$text" | grep -laF -f - "$@" 2>/dev/null; }
    echo "$text" | grep -rlaF -f - /run /var/lib /var/log /etc --exclude-dir=credentials 2>/dev/null
    echo "$text" | grep -rlaF -f - /run/fleet 2>/dev/null
    search /proc/[0-9]*/environ /proc/[0-9]*/cmdline
    journalctl --no-pager -o export > /tmp/journal; systemctl show '*' > /tmp/show
    search /tmp/journal /tmp/show
    true
    """
    return machine.run(["sh", "-c", script], stdin=f"{text}\n").stdout.split()


@pytest.mark.covers("R.12")
def test_a_secret_reaches_its_service_and_nothing_else(operator: Operator) -> None:
    cluster = operator.cluster
    asked = cluster.machines[0]
    cluster.wait_until("every machine has a key", lambda: _all_have_keys(cluster))
    refused = operator.start({"reader.service": READER}, "--block-attempts=2", check=False)
    assert refused.returncode == 1
    assert "its secret db.pw is missing (fleetctl secret set db.pw)" in refused.stderr
    shown = fleetctl(asked, "secret", "set", "db.pw", value=VALUE).stdout
    assert shown.startswith("Set the secret db.pw (version ")
    operator.wait_until_placed("reader.service")
    machine = operator.machine_of("reader.service")
    assert read_sums(machine) == [sum_of(VALUE)]
    # Nothing at rest has it.
    for each in cluster.machines:
        assert find_on(each, VALUE) == []
    data = cluster.etcd.etcdctl("get", "--prefix", "/fleet", "--write-out=json")
    assert VALUE not in data
    assert base64.b64encode(VALUE.encode()).decode().rstrip("=")[:-2] not in data
    placement = json.loads(
        cluster.etcd.etcdctl("get", "--print-value-only", f"/fleet/placements/{machine.id}/reader.service")
    )
    assert placement["secrets"][0]["name"] == "db.pw"
    # Without fleetd.
    machine.run(["systemctl", "kill", "--signal=STOP", "fleet.service"])
    try:
        machine.run(["systemctl", "stop", "fleet-credentials.service"])
        machine.run(["systemctl", "restart", "reader.service"])
        assert read_sums(machine) == [sum_of(VALUE)] * 2
    finally:
        machine.run(["systemctl", "kill", "--signal=CONT", "fleet.service"])
    # Another value restarts it; the one before is there to go back to.
    changed = fleetctl(asked, "secret", "set", "db.pw", value="another").stdout
    assert "Restarting reader.service" in changed
    cluster.wait_until("it has the new value", lambda: read_sums(machine)[-1] == sum_of("another"), 60)
    used = fleetctl(asked, "secret", "rm", "db.pw", check=False)
    assert used.returncode == 1
    assert "named by reader.service" in used.stderr
    fleetctl(asked, "destroy", "reader.service")
    fleetctl(asked, "secret", "rm", "db.pw")
    cluster.wait_until("it is gone", lambda: "secrets/" not in cluster.etcd.etcdctl("get", "--prefix", "/fleet/sealed"))


def _all_have_keys(cluster: Cluster) -> bool:
    records = [cluster.etcd.etcdctl("get", f"/fleet/machines/{machine.id}") for machine in cluster.machines]
    return all("seal_key" in record for record in records)


@pytest.mark.covers("R.12")
def test_a_unit_of_the_machines_own_gets_nothing_and_does_not_start_with_an_empty_password(operator: Operator) -> None:
    cluster = operator.cluster
    machine = cluster.machines[0]
    cluster.wait_until("every machine has a key", lambda: _all_have_keys(cluster))
    asking = ["systemd-run", "--wait", f"--property=LoadCredential=db.pw:{SOCKET}"]
    began_s = time.monotonic()
    refused = machine.run([*asking, "touch", "/run/was-started"], check=False)
    assert refused.returncode != 0
    assert time.monotonic() - began_s < 30.0, "systemd is told, and waits for nothing"
    assert not machine.path("/run/was-started").exists()
    assert "its unit file has to say Secret=db.pw in [X-Fleet]" in machine.journal("fleet-credentials.service")
    connecting = f"import socket; socket.socket(socket.AF_UNIX).connect('{SOCKET}')"
    stranger = machine.run(["setpriv", "--reuid=65534", "--clear-groups", "python3", "-c", connecting], check=False)
    assert "Permission denied" in stranger.stderr


def test_a_secret_follows_its_unit_to_another_machine_and_over_a_reboot(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    cluster = new_cluster(machines=3)
    operator = Operator(cluster, tmp_path)
    cluster.wait_until("every machine has a key", lambda: _all_have_keys(cluster))
    fleetctl(cluster.machines[0], "secret", "set", "db.pw", value=VALUE)
    operator.start({"reader.service": READER})
    first = operator.machine_of("reader.service")
    first.power_cut()
    others = [machine for machine in cluster.machines if machine is not first]
    cluster.wait_until("it reads its secret elsewhere", lambda: any(map(read_sums, others)), 60)
    second = next(machine for machine in others if read_sums(machine))
    assert read_sums(second) == [sum_of(VALUE)]
    first.boot()
    # What was sealed for the machine that was lost goes with the placement there.
    prefix = f"/fleet/sealed-secrets/{first.id}/"
    cluster.wait_until("nothing is left", lambda: cluster.etcd.etcdctl("get", "--keys-only", "--prefix", prefix) == "")
    second.run(["systemctl", "stop", "fleet.service"])  # it is parked: its unit stays there
    second.power_cut()
    second.boot()
    cluster.wait_until("it has read it after the reboot", lambda: len(read_sums(second)) == 2, 60)
    assert set(read_sums(second)) == {sum_of(VALUE)}


ASK_AND_READ_LATE = f"""
import socket, time
client = socket.socket(socket.AF_UNIX)
client.bind("\\0abc/unit/none.service/db.pw")
client.connect("{SOCKET}")
client.shutdown(socket.SHUT_WR)
print("connected", flush=True)
input()
size = 0
while block := client.recv(65536):
    size += len(block)
print(size)
"""


@pytest.mark.covers("R.12")
def test_a_connection_does_not_end_early_when_the_service_is_killed(operator: Operator) -> None:
    machine = operator.cluster.machines[0]
    (machine.root / "root/ask.py").write_text(ASK_AND_READ_LATE)
    script = (
        "mkfifo /run/go; python3 /root/ask.py < /run/go > /run/size & exec 3> /run/go; "
        "until grep -q connected /run/size; do sleep 0.1; done; sleep 0.5; "
        "systemctl kill --signal=KILL fleet-credentials.service; sleep 1; echo >&3; wait; rm /run/go; cat /run/size"
    )
    size = int(machine.run(["bash", "-c", script]).stdout.split()[-1])
    assert size > 1024 * 1024, "systemd takes no credential of this size, and half of one might be a password"
    operator.cluster.wait_until(
        "systemd keeps it no longer", lambda: machine.show("fleet-credentials.service", "NFileDescriptorStore") == "0"
    )


TPM = "/var/lib/software-tpm"
SYSTEMD_CREDS = f"""\
#!/bin/sh
PATH=/usr/sbin:/usr/bin exec /usr/bin/python3 {software_tpm.__file__} {TPM} "$@"
"""


def install_tpm(machine: Machine) -> None:
    """Give a machine a TPM, which systemd-creds finds. Its memory is in a folder, where services may write to it."""
    (machine.root / TPM[1:]).mkdir()
    program = machine.root / "usr/local/bin/systemd-creds"
    program.write_text(SYSTEMD_CREDS)
    program.chmod(0o755)
    for name in ("fleet.service", "fleet-credentials.service"):
        drop_in = machine.root / f"etc/systemd/system/{name}.d/tpm.conf"
        drop_in.write_text(f"[Service]\nReadWritePaths={TPM}\n")


def test_a_machine_opens_secrets_with_its_tpm_and_is_given_them_anew_when_that_was_cleared(
    new_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    require(software_tpm.missing(), "runs systemd-creds with a TPM in software")
    cluster = new_cluster(machines=2)
    operator = Operator(cluster, tmp_path)
    machine = cluster.machines[0]
    trust = machine.root / "var/lib/fleet/trust"
    cluster.wait_until("every machine has a key", lambda: _all_have_keys(cluster))
    machine.power_cut()
    install_tpm(machine)
    for file in trust.glob("seal.*"):
        file.unlink()
    machine.boot()
    cluster.wait_until("the key is bound", lambda: (trust / "seal.cred").exists() and (trust / "seal.pub").exists())
    assert not (trust / "seal.key").exists()
    former = (trust / "seal.pub").read_text()
    cluster.wait_until("every machine has a key", lambda: _all_have_keys(cluster))
    fleetctl(cluster.machines[1], "secret", "set", "db.pw", value=VALUE)
    operator.start({"reader.service": f"{READER}MachineID={machine.id}\n"})
    cluster.wait_until("it has read its secret", lambda: len(read_sums(machine)) == 1)
    machine.power_cut()
    machine.boot()
    cluster.wait_until("it has read it after the reboot", lambda: len(read_sums(machine)) == 2)
    assert (trust / "seal.pub").read_text() == former
    machine.power_cut()
    shutil.rmtree(machine.root / TPM[1:])
    (machine.root / TPM[1:]).mkdir()
    machine.boot()
    cluster.wait_until("it has read what was sealed anew", lambda: len(read_sums(machine)) == 3, 120)
    assert set(read_sums(machine)) == {sum_of(VALUE)}
    assert (trust / "seal.pub").read_text() != former
    assert "the key for secrets is lost, and there is a new one" in machine.journal("fleet.service")
