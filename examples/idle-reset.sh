#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A connection that nobody uses for 350 seconds, and the reset for whoever uses it afterwards.
#
# The gateway forgets such a connection without a word to either end, as AWS's does. The next segment
# from inside is answered with a reset, which the program sees as "Connection reset by peer". Here
# time runs a hundred times faster.
. "$(dirname "$0")/lab.sh"

start_lab --environments 1 --set timeouts.time_scale=100

hyperplane-nat exec env-1 -- python3 - <<'PYTHON'
import http.client
import time

connection = http.client.HTTPConnection("10.0.1.80")
for idle_seconds in (0, 60, 360):
    time.sleep(idle_seconds / 100)
    try:
        connection.request("GET", "/peer")
        answer = connection.getresponse().read().decode()
    except ConnectionResetError as error:
        answer = error
    print(f"used again after {idle_seconds} seconds: {answer}")
PYTHON

echo "connections ended for being idle: $(status counters flows_ended_tcp_timeout)"
echo "resets sent by the gateway: $(status counters replies_tcp)"
