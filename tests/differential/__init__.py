# SPDX-License-Identifier: Apache-2.0
"""The differential test: random legal TCP conversations through the gateway and through nft.

Theory of operation
-------------------
The judge of a NAT is not its own table of states but two real stacks that talk through it, and
another NAT in its place. From a seed, `generation` draws conversations: what the programs at both
ends do (`scripts`), and what the network does to their packets (`impairment`). Each is played in
two worlds at the same time (`worlds`): in one stands the gateway, in the profile `rfc`; in the
other Linux with `masquerade random`, `ct state invalid drop` and `nf_conntrack_tcp_loose = 0`. All
else is equal: ends, links, time-outs, and the impaired network (`middlebox`) on both sides of the
NAT. `driver` plays a conversation with real sockets, `rounds` hundreds of them at a time, and
`judge` compares what came of them.

A script knows what must come of each of its steps when the NAT does nothing wrong: the data whole
and unchanged, the end that was asked for, a refusal where nobody listens. A conversation is carried
when all came so. The one rule: what nft carries, the gateway carries.

Impairments and deadlines are such that TCP always comes through: losses below a tenth, few in a
handshake, thirty seconds for a step. The time-outs of both NATs are a twentieth of the RFCs',
while the kernels' timers for sending again are what they always are: a NAT is not blamed for
forgetting in between.

Half-open ends are made by TCP_REPAIR: a socket that is closed under repair says nothing, like a
host that has lost its power. Its kernel knows nothing of the connection from then on.

What is no difference
---------------------
* when something happened, and how often a segment was sent for it;
* which port the NAT took outside (RFC 6056: at random in both);
* ECONNRESET or EPIPE: the same reset, before a read or before a write (RFC 9293, 3.10.7.4);
* who is right where nft does not carry a conversation: nothing is asserted, but few may be so.

Beside these, `judge.ALLOWED` lists the conversations that the gateway need not carry though nft
does, each with its reason and source.

What chance must not decide
---------------------------
* A reset is never lost by chance: nobody repeats it, so that its receiver would hear of it or not.
  It is lost where a script wants that, and the script knows what follows.
* A reset is sent when everything before it is acknowledged: one that overtakes data is challenged
  (RFC 5961, section 3.2), and neither challenge nor answer would be repeated.
* Of a connection's opening chance takes one packet at each side of the NAT at most
  (`impairment.OPENING_LOSSES`). A handshake is tried again after 1, 2, 4 and 8 seconds, and as long
  as it took is its first measured round trip with timestamps (RFC 7323, section 4): the timer for
  sending again is three times that (RFC 6298, section 2). After four losses, 15 seconds, data that
  is lost waits up to 45 seconds, beyond the deadline of a step, with either NAT. And chance would
  strike one world alone, every time: where the server still holds an old connection, a port outside
  that comes again (RFC 4787, REQ-1) costs a challenge, its answer and another SYN, so that the
  packets that are lost are others than behind nft, which takes another port.
* A SYN with data is not duplicated: Fast Open may deliver such data twice (RFC 7413, section 2).
* No SYN has its number in the window of an earlier one of the same port of which a duplicate may be
  late. Where the server never had that connection, or has it no more, the duplicate half opens it
  again, and Linux answers such a SYN by a reset, with any NAT in between or none; behind nft the
  next connection has another port outside, and the server notices nothing. So a server that was
  deaf listens when nothing is late any more (`drafts.LATE_SECONDS`), and a connection of a port
  that comes again lasts until the numbers are apart (`drafts.APART_SECONDS`). After its end the
  port is used again at once, and what is late of it is for the NAT to bear.
"""
