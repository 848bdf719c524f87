# SPDX-License-Identifier: Apache-2.0
"""An AWS endpoint for a running lab: what SDKs ask of AWS becomes what moves packets.

Theory of operation
-------------------
`server` takes what the clients of AWS send. `operations` has the table that says what becomes of
each operation: it is done in the region (`real`), answered from memory (`recorded`) or refused.
What is real is a function of a `call.Call` and the parameters; it asks and commands the control API
as the command line does and keeps nothing itself, so the endpoint may be killed at any moment.
What the region has no place for (tags, descriptions) is in a file of the lab's directory (`notes`).

Protocols, parsers and what is recorded are moto's (https://docs.getmoto.org), which is installed
with the extra `hyperplane-nat[aws]`.
"""
