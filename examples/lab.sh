# SPDX-License-Identifier: Apache-2.0
# Sourced by the examples: `hyperplane-nat` and `python3` are those of this clone, every command is
# about a lab of a random name, and the lab goes with the script, however that ends.

set -euo pipefail

PATH="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.venv/bin:$PATH"
HYPERPLANE_NAT_LAB=$(printf 'ex-%08x' "$SRANDOM")
export PATH HYPERPLANE_NAT_LAB

if [ "$(id -u)" != 0 ]; then
    echo "$0: making a lab needs root: run it with sudo" >&2
    exit 2
fi
if ! command -v hyperplane-nat >/dev/null; then
    echo "$0: hyperplane-nat is not built: run sudo make build" >&2
    exit 2
fi

# bash waits for the command that runs before it obeys; a second Ctrl-C must not break off `down`.
remove_lab() {
    trap '' INT TERM HUP
    for job in $(jobs -pr); do kill -KILL "$job" || true; done
    hyperplane-nat down >/dev/null
}
trap 'exit 130' INT
trap 'exit 143' TERM HUP
trap remove_lab EXIT

# Beside whatever else runs: any free port will do for the metrics.
start_lab() {
    hyperplane-nat up --set metrics.port=0 "$@" >/dev/null
    echo "lab $HYPERPLANE_NAT_LAB is up"
}

# A value of the lab's status by its keys: `status forwarder pid`. Asks the control API itself.
status() {
    curl -sS --unix-socket "/run/hyperplane-nat/$HYPERPLANE_NAT_LAB/control.sock" \
        http://localhost/v1/status | python3 -c '
import json, sys

value = json.load(sys.stdin)
for key in sys.argv[1:]:
    value = value[key]
print(value)' "$@"
}
