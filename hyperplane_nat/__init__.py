# SPDX-License-Identifier: Apache-2.0
"""A connection-tracking NAT gateway in user space.

Thousands of execution environments, all with the same address, reach a customer VPC through one
network interface. `engine` translates, `io` moves frames, `forwarder` joins the two, `controller`
owns namespaces and the control API, `cli` is what a person types.
"""

__version__ = "0.1.0"
