"""The virtual clock of tests is that of simulated clusters."""

from fleetd.testing.virtual_time import START_S as START_S
from fleetd.testing.virtual_time import Stuck as Stuck
from fleetd.testing.virtual_time import VirtualLoop as VirtualLoop
from fleetd.testing.virtual_time import offload_inline as offload_inline
from fleetd.testing.virtual_time import run_virtually as run_virtually
