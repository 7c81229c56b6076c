"""Containers in the format of podman's Quadlet: `.container`, `.volume` and `.network` files, and the service that
fleet makes of them. Pure.

`translation.py` is the entry: it makes the service, once, when a unit is submitted. `source.py` keeps the files in the
unit, where systemd does not read them, and gives them back.
"""
