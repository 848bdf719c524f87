# SPDX-License-Identifier: Apache-2.0
"""Whose the processes of a lab are."""

UID = 65_530
"""
User and group of what has dropped its privileges. Nobody hands this number out: Debian reserves
65000 to 65533, systemd's dynamic users end at 65519, and it fits into the 65,536 users of a
container. `nobody` is shared with whatever else on a host runs as that.
"""
