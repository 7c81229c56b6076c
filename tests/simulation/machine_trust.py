"""The certificates of one simulated machine: on its disk, which outlives a boot, and kept by the real keepers of fleetd
(fleetd/trust), with certificates that sign nothing."""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from fleetd.model.certificate import MACHINE, SERVER, WORKER, CertificateIdentity, Revocation, is_revoked, split_pem
from fleetd.process.worker_store import LearnedServers
from fleetd.registry.registry import Registry
from fleetd.store.protocol import Store
from fleetd.trust.files import OwnKnowledge, TrustFiles
from fleetd.trust.keeper import Lives, TrustKeeper
from fleetd.trust.signing import Signer, SigningFailed
from fleetd.trust.worker import WorkerTrust
from tests.simulation.certificates import SimulatedContexts, SimulatedSigning
from tests.simulation.wire import IsFatal
from tests.simulation.worker_line import WorkerLine

if TYPE_CHECKING:
    from tests.simulation.machine import SimulatedMachine

AUTHORITY_S = 1e6  # how long an authority lives
WORK_S = 0.2  # for a process that signs


class WatchedFiles(TrustFiles):
    """Files whose writes are moments at which their fleetd can die; what a machine knows of others only grows."""

    def __init__(self, directory: Path, is_fatal: IsFatal, fail: Callable[[str], None]) -> None:
        super().__init__(directory, sync=lambda descriptor: None)
        self._is_fatal = is_fatal
        self._fail = fail

    def write_known(self, known: OwnKnowledge) -> None:
        former = self.read_known().known
        authorities = {each.certificate for each in former.authorities}
        facts = {(each.subject, each.before_s) for each in former.revocations}
        if not authorities <= {each.certificate for each in known.known.authorities}:
            self._fail("forgets an authority")
        if not facts <= {(each.subject, each.before_s) for each in known.known.revocations}:
            self._fail("forgets a revocation")
        super().write_known(known)

    def _write(self, path: Path, text: str) -> None:
        if self._is_fatal(f"before it writes {path.name}"):
            raise OSError("fleetd is dead")
        super()._write(path, text)
        self._is_fatal(f"after it has written {path.name}")


class MachineTrust:
    """The certificates of a machine, which live for `life_s`. `line` carries what its processes ask servers."""

    def __init__(
        self,
        machine: "SimulatedMachine",
        directory: Path,
        life_s: float,
        line: WorkerLine,
        new_id: Callable[[], str],
        fail: Callable[[str], None],
    ) -> None:
        self._machine = machine
        self._directory = directory
        self._life_s = life_s
        self._fail = fail
        self.signer = Signer(SimulatedSigning(new_id, self._take_time, line.ask))

    @property
    def has_joined(self) -> bool:
        """True for a worker that has a certificate."""
        return bool(self.certificate)

    @property
    def certificate(self) -> str:
        """The machine's certificate, '' if it has none."""
        return self._files().read_certificate()

    async def counts(self, revocations: Iterable[Revocation]) -> bool:
        """True if none of these is of the machine's certificate."""
        files = self._files()
        try:
            own, _ = await self.signer.inspect(files.read_certificate(), files.read_authorities())
        except (ValueError, SigningFailed):
            return False
        return not is_revoked(own, revocations)

    def open_server(self, store: Store, is_fatal: IsFatal) -> TrustKeeper:
        """The keeper of a server's fleetd, over its connection to the store."""
        keeper = TrustKeeper(
            CertificateIdentity(MACHINE, self._machine.id, SERVER),
            self._files(is_fatal),
            Registry(store),
            find_names=lambda: (self._machine.address,),
            signer=self.signer,
            unix_now=self._machine.unix_now,
            lives=Lives(self._life_s, AUTHORITY_S),
            make_contexts=SimulatedContexts,
        )
        keeper.open()
        return keeper

    def open_worker(self, is_fatal: IsFatal, servers: tuple[str, ...]) -> WorkerTrust:
        """The keeper of a worker's fleetd."""
        learned = LearnedServers(self._directory)
        trust = WorkerTrust(
            self._files(is_fatal),
            lambda: tuple(dict.fromkeys((*servers, *learned.read()))),
            signer=self.signer,
            unix_now=self._machine.unix_now,
            life_s=self._life_s,
            make_contexts=SimulatedContexts,
        )
        trust.open()
        return trust

    async def join_one(self, servers: "Iterable[SimulatedMachine | None]") -> bool:
        """Have the first of these servers that can give the machine a certificate of a new key, as `fleetd join` does.
        False if none can."""
        key, request = await self.signer.make_request()
        identity = CertificateIdentity(MACHINE, self._machine.id, WORKER)
        for server in servers:
            keeper = server.node.trust if server and server.node and server.link.awake.is_set() else None
            if keeper is None or keeper.why_unsure():
                continue
            try:
                certificate = await keeper.sign(request, identity, now_s=server.unix_now())  # type: ignore[union-attr]
                trusted = split_pem(await keeper.authorities())
            except (ValueError, SigningFailed):
                continue
            files = self._files()
            files.write_authorities(trusted)
            files.write_certificate(key, certificate)
            return True
        return False

    def _files(self, is_fatal: IsFatal = lambda moment: False) -> WatchedFiles:
        return WatchedFiles(self._directory, is_fatal, self._fail)

    async def _take_time(self) -> None:
        await asyncio.sleep(WORK_S)
        await self._machine.link.awake.wait()
