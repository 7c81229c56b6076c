"""Runs inside fleetd (see tampering.py): certificates of machines live as many seconds as LIFE in the environment
says."""

import os

from fleetd.model import certificate

certificate.MACHINE_LIFE_S = float(os.environ["LIFE"])
