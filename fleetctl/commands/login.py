"""login: get a certificate for https, make one for a service, or revoke them."""

from pathlib import Path

import click

from fleetctl import output
from fleetctl.client import open_client
from fleetctl.command_line import new_command
from fleetctl.errors import CommandFailed, cause_of, failing_as
from fleetctl.logins import keep_login, local_time
from fleetctl.settings import Settings
from fleetd.api import schema
from fleetd.small_files import replace_file

_MOST_DAYS = 90
_ROLES = {"viewer": "view", "operator": "operate"}  # taken, too


@new_command("login", usage="[--role=RIGHTS] | --for=NAME --role=RIGHTS [--days=N] [--out=FILE] | --revoke=NAME")
@click.option(
    "--role",
    default="",
    metavar="RIGHTS",
    help="what it permits: view, operate, admin, or as role.GROUP= in fleet.conf(5)",
)
@click.option("--for", "service", default="", metavar="NAME", help="make a certificate for a service, as for CI")
@click.option("--days", type=int, default=_MOST_DAYS, help="with --for: how long it counts, from 1 to 90 days")
@click.option("--out", default="", metavar="FILE", help="with --for: where to write it, instead of standard output")
@click.option("--revoke", "revoked", default="", metavar="NAME", help="revoke the certificates of a person or service")
def command(settings: Settings, role: str, service: str, days: int, out: str, revoked: str) -> int:
    """Gets you a certificate for the cluster's https addresses, which counts for twelve hours. From then on
    --endpoint=https://SERVER:7443 works without SSH. Run it on a server, or from elsewhere over SSH, with
    --tunnel=SERVER. The certificate names the user who asks there, and permits what their groups permit at that moment,
    or only the part of it in --role. The key is made here and stays here, in ~/.fleetctl/certificates.

    --for makes a certificate for a service, for 90 days at most; it needs the permission admin. It is printed as one
    PEM file: key, certificate, and the authorities of the cluster. The service uses it with
    --endpoint=https://SERVER:7443 --cert-file=FILE, or FLEETCTL_ENDPOINT and FLEETCTL_CERT_FILE.

    --revoke makes the certificates of the person and of the service of this name (person/NAME or service/NAME: of that
    one only) useless within a second; it needs the permission admin, too. Take a person out of the groups on the
    servers before, or they log in again.
    """
    if revoked:
        _refuse_options({"--for": service, "--role": role, "--days": days, "--out": out}, "--revoke")
        return _revoke(settings, revoked)
    if not service:
        _refuse_options({"--days": days, "--out": out}, "a login of your own")
    elif not role:
        raise CommandFailed("--for needs --role=RIGHTS: view, operate, admin, or operate:web-*,submit:web-*", 2)
    rights = ",".join(_ROLES.get(word.strip(), word.strip()) for word in role.split(","))
    return _get(settings, service, rights, days, out)


def _refuse_options(given: dict[str, object], what: str) -> None:
    if others := [option for option, value in given.items() if value not in ("", _MOST_DAYS)]:
        raise CommandFailed(f"{', '.join(others)} {'have' if others[1:] else 'has'} no meaning for {what}", 2)


def _get(settings: Settings, service: str, rights: str, days: int, out: str) -> int:
    from fleetd.trust.x509 import make_request  # slow to import

    if not 1 <= days <= _MOST_DAYS:
        raise CommandFailed(f"--days={days}: a certificate counts for 1 to {_MOST_DAYS} days", 2)
    client = open_client(settings)
    key, csr = make_request()
    with failing_as("Error logging in: "):
        answer = client.login(schema.LoginRequest(csr, service, rights, days if service else 0))
        revoked = {} if service else client.revoked_machines()
    who = f"{output.printable(answer.subject)} until {local_time(answer.expires)}: {output.printable(answer.rights)}"
    server = output.printable(answer.servers[0])
    if service:
        bundle = key + answer.certificate + answer.authorities
        if out:
            try:
                replace_file(Path(out), bundle)
            except OSError as error:
                raise CommandFailed(f"cannot write {out}: {cause_of(error)}") from error
        else:
            output.write(bundle)
        output.note(f"{who}; use it with --endpoint={server} --cert-file={out or 'FILE'}")
        return 0
    try:
        _, replaced = keep_login(answer, key, revoked)
    except OSError as error:
        raise CommandFailed(f"cannot keep the certificate in {error.filename}: {cause_of(error)}") from error
    except ValueError as error:
        raise CommandFailed(f"Error logging in: {output.printable(str(error))}") from error
    for other in replaced:
        output.note(
            "The authority of this cluster is another one than at the login as "
            f"{output.printable(other.subject)} until {local_time(other.expires)}, which is replaced"
        )
    output.result(f"Logged in as {who}")
    output.result(f"From now on this needs no SSH: fleetctl --endpoint={server} list-units")
    return 0


def _revoke(settings: Settings, name: str) -> int:
    subjects = [name] if "/" in name else [f"person/{name}", f"service/{name}"]
    client = open_client(settings)
    for subject in subjects:
        with failing_as(f"Error revoking {output.printable(subject)}: "):
            client.revoke(subject)
    output.result(f"Certificates of {' and '.join(subjects)} that were made until now do not count any more")
    return 0
