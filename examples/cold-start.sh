#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Ten cold starts at a time, before Hyperplane (2019) and after.
#
# Before, each environment got a network interface of its own, made in its cold start: 12 seconds on
# AWS, and an address of the subnet each. After, all share one that was made with the function. What
# is measured here and what AWS would add are two figures; the second is modelled.
. "$(dirname "$0")/lab.sh"

start_lab --config "$(dirname "$0")/cold-start.toml"

for function in before after; do
    # What Hyperplane asks instead: a function is Pending until its interface is there.
    until hyperplane-nat functions | grep "^$function.*Active" >/dev/null; do sleep 0.1; done
    echo
    # Each program lasts, so that none of the ten can have the environment of another.
    hyperplane-nat invoke $function --count 10 --concurrency 10 -- sleep 0.5
done

echo
echo "network interfaces by kind:"
hyperplane-nat interfaces | tail -n +2 | cut -f 3 | sort | uniq -c
