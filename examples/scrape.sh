#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A scrape as Prometheus does it: what three downloads of 1,000,000 bytes each are in metrics.
#
# Those called natgateway have the names and meanings of CloudWatch's for NAT gateways.
. "$(dirname "$0")/lab.sh"

start_lab --environments 3

for environment in env-1 env-2 env-3; do
    hyperplane-nat exec $environment -- curl -sS -o /dev/null http://10.0.1.80/file?bytes=1000000
done

page=$(curl -sS "$(status metrics_url)")
echo "$(grep -c '^# TYPE' <<<"$page") metrics, among them:"
grep -E -e '^hyperplane_nat_natgateway_(connection|bytes_out_to_source|error|idle)' \
    -e '^hyperplane_nat_(flows_created|ring_dropped)' <<<"$page"
