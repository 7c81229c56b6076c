"""The failure of one of several endpoints of a store."""

from fleetd.store.protocol import Unavailable


class EndpointFailed(Unavailable):
    """This endpoint gives no usable answer; another one might. The message is the cause. `was_refused`: it has said
    that it has not executed the request. `is_lasting`: that does not end before somebody does something about it."""

    def __init__(self, cause: str, *, was_refused: bool = False, is_lasting: bool = False) -> None:
        super().__init__(cause)
        self.was_refused = was_refused
        self.is_lasting = is_lasting
