"""Certificates are made by a process of their own."""

import subprocess
import sys

import pytest

from fleetd.model.certificate import CertificateIdentity
from fleetd.model.permission import parse_rights
from fleetd.trust.signing import Refused, Signer, SigningFailed

NOW = 1_790_000_000.0
ANN = CertificateIdentity("person", "ann", rights=parse_rights("operate:web-*"))


async def test_a_certificate_is_made_signed_and_read_by_processes():
    signer = Signer()
    authority, cross = await signer.make_authority(1, NOW)
    assert cross == ""
    key, _ = await signer.issue(authority, ANN, now_s=NOW, life_s=60)
    same_key, request = await signer.make_request(key)
    renewed = await signer.sign(authority, request, ANN, now_s=NOW + 40, life_s=60)
    found, signed_by = await signer.inspect(renewed, ["not one", authority.certificate], request)
    assert signed_by == authority.certificate
    assert (same_key, found.subject, found.rights, found.issued_at_s) == (key, "person/ann", ANN.rights, NOW + 40)
    assert key.splitlines()[1] not in repr(authority)


async def test_what_cannot_be_used_is_refused_in_words():
    signer = Signer()
    authority, _ = await signer.make_authority(1, NOW)
    other, cross = await signer.make_authority(2, NOW, former=authority)
    with pytest.raises(Refused, match="names 0 machines"):
        await signer.inspect(cross, [authority.certificate])
    _, certificate = await signer.issue(authority, ANN, now_s=NOW)
    with pytest.raises(Refused, match="no request for a certificate"):
        await signer.sign(authority, "?", ANN, now_s=NOW)
    with pytest.raises(Refused, match="not of an authority that this cluster trusts"):
        await signer.inspect(certificate, [other.certificate])
    with pytest.raises(Refused, match="not made with the key"):
        await signer.inspect(certificate, [authority.certificate], (await signer.make_request())[1])


@pytest.mark.parametrize(("said", "words"), [(b"", "something else"), (b'{"result": 3}', "something else")])
async def test_an_answer_of_another_kind_is_a_failure(said, words):
    async def run(_call: bytes) -> bytes:
        return said

    with pytest.raises(SigningFailed, match=words):
        await Signer(run).make_request()


async def test_a_process_that_fails_says_why():
    with pytest.raises(SigningFailed, match=r"ended with 1: KeyError: 'dance'"):
        await Signer().call("dance", str)


def test_the_daemons_half_does_not_import_what_makes_certificates():
    script = "import sys, fleetd.trust.signing; sys.exit('cryptography' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
