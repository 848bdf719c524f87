#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Environments with the same address and the same port do not meet, and nobody reaches them.
#
# An environment is known by the link its frames arrive on. What it may not do is dropped, and every
# drop has a reason that is counted.
. "$(dirname "$0")/lab.sh"

start_lab --environments 2

# Asks from port 5000: who it is inside, and who it is to the server.
ask='
import http.client, json

connection = http.client.HTTPConnection("10.0.1.80", source_address=("", 5000))
connection.request("GET", "/peer")
inside = connection.sock.getsockname()
outside = json.load(connection.getresponse())
print("{}:{} is {address}:{port} in the VPC".format(*inside, **outside))'

# A datagram from an address, its own or not, to an address and a port.
send='
import socket, sys

source, remote, port = sys.argv[1:]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.setsockopt(socket.SOL_IP, socket.IP_TRANSPARENT, 1)
    sender.bind((source, 0))
    sender.settimeout(1)
    try:
        sender.sendto(b"hello", (remote, int(port)))
        print(f"answer: {sender.recv(100).decode()}")
    except TimeoutError:
        print("no answer")'

from_environment() {
    hyperplane-nat exec env-1 -- python3 -c "$send" "$@"
}

for environment in env-1 env-2; do
    echo "$environment: $(hyperplane-nat exec $environment -- python3 -c "$ask")"
done
echo "env-1 to the VPC's echo server:       $(from_environment 169.254.100.2 10.0.1.81 7)"
echo "the same with another source address: $(from_environment 169.254.100.9 10.0.1.81 7)"
echo "env-1 to the gateway itself:          $(from_environment 169.254.100.2 169.254.100.1 7)"
echo "env-1 to what is not in the VPC:      $(from_environment 169.254.100.2 203.0.113.80 7)"

vpc="hp-$HYPERPLANE_NAT_LAB-vpc-customer"
inwards=$(ip netns exec "$vpc" python3 -c "$send" 10.0.1.80 10.0.1.10 5000)
echo "from the VPC to the interface:        $inwards"

echo "dropped, by reason: $(status drops)"
