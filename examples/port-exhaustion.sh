#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# 55,000 source ports towards one remote endpoint, and what happens to whoever wants one more.
#
# Two environments send a datagram each from 30,000 ports to the same server. An interface has 55,000
# ports towards one remote address and port (AWS's limit), so 5,000 get none: ErrorPortAllocation.
# Another server is another remote endpoint, for which every port is free.
. "$(dirname "$0")/lab.sh"

start_lab --environments 2

for environment in env-1 env-2; do
    hyperplane-nat exec $environment -- python3 - <<'PYTHON'
import http.client
import socket

pace = http.client.HTTPConnection("10.0.1.80")
for port in range(20000, 50000):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("", port))
        sender.sendto(b"hello", ("10.0.1.80", 9))
    # An answer from behind the gateway now and then: no queue overflows on a slow machine.
    if port % 200 == 199:
        pace.request("GET", "/peer")
        pace.getresponse().read()
PYTHON
    echo "$environment has sent from 30,000 ports:" \
        "$(status flows udp) flows, $(status counters port_allocation_errors) refused"
done

echo "to another server, from the environment that was refused:" \
    "$(hyperplane-nat exec env-2 -- ping -c 1 -q 10.0.1.81 | grep received)"

echo "who has the ports:"
hyperplane-nat ports --remote 10.0.1.80:9
