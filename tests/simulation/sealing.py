"""What seals secrets in the simulation."""

from fleetd.trust.sealing_wire import Answer, Encrypt, MakeKey, Request, Sealed


async def seal(request: Request) -> Answer:
    """Seals nothing, and has the form of it: every run is the same."""
    match request:
        case MakeKey():
            return Answer((Sealed(public="key"),))
        case Encrypt(_, _, value, recipients):
            return Answer((Sealed(box=value, keys=dict.fromkeys(recipients, b"key")),))
    return Answer(tuple(Sealed(keys=dict.fromkeys(item.recipients, b"key")) for item in request.items))
