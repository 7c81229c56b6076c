"""The failure of one of several endpoints of a store."""

from fleetd.store.protocol import Unavailable


class EndpointFailed(Unavailable):
    """This endpoint gives no usable answer; another one might. The message is the cause. `was_refused`: it has said
    that it has not executed the request."""

    def __init__(self, cause: str, *, was_refused: bool = False) -> None:
        super().__init__(cause)
        self.was_refused = was_refused
