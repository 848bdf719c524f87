#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The process that moves the packets is killed three times; a connection through it goes on.
#
# Flows are in a mapped file that outlives the forwarder. A standby that holds nothing takes over; TCP
# sends again what was lost meanwhile.
. "$(dirname "$0")/lab.sh"

start_lab --environments 1

# One connection asks for the same page until it is told to stop.
hyperplane-nat exec env-1 -- python3 - <<'PYTHON' &
import http.client
import signal
import threading
import time

stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
connection = http.client.HTTPConnection("10.0.1.80")
answers, waits = set(), []
while not stop.wait(0.01):
    began = time.monotonic()
    connection.request("GET", "/peer")
    answers.add(connection.getresponse().read().decode())
    waits.append(time.monotonic() - began)
print(f"one connection: {len(waits)} requests answered, the longest took {max(waits):.3f} s")
print("to the server it came from", *answers)
PYTHON
client=$!

until [ "$(status counters flows_established_tcp)" = 1 ]; do sleep 0.1; done
seconds=None
for _ in 1 2 3; do
    pid=$(status forwarder pid)
    kill -KILL "$pid"
    before=$seconds
    until [ "$seconds" != "$before" ]; do
        sleep 0.1
        seconds=$(status forwarder failover_seconds)
    done
    echo "forwarder $pid killed; the next moved packets ${seconds:0:5} s later"
done
kill -TERM $client
wait $client
