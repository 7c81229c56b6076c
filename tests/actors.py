"""Who makes the requests of tests."""

from fleetd.model.actor import Actor
from fleetd.model.permission import EVERY_RIGHT

ADMIN = Actor("root", "uid:0(root)", EVERY_RIGHT)
