/* SPDX-License-Identifier: Apache-2.0
 *
 * The flow cache: forwards packets of established flows where they arrive, at a link's tc ingress.
 *
 * Theory of operation
 * -------------------
 * A frame is a hit when its attachment, addresses, ports and protocol are a key of `keys`. The
 * value is a line of `records`, where all that is to be rewritten stands, and what is to be
 * remembered: counters, last use, TCP's numbers. Lines 2n and 2n + 1 are the two directions of one
 * flow. What is no hit is a miss, untouched. So is all that changes a flow or needs an answer: only
 * what is a plain rewrite in an established flow is done here, and nothing is dropped.
 *
 * A miss is sent to the far end of the punt link (`control.punt`), for whoever listens there. The
 * attachment's number goes with it as a VLAN tag beside the frame, all 16 bits of it; a tag that the
 * sender has put on is then in the frame. Without a punt link it goes on to the next filter.
 *
 * Most frames of a flow that is not cached are misses without a look at `keys`, whose buckets are
 * seldom in the processor's cache: `control.cells` says for a digest of a key how many keys have it.
 * Where a cell is 0 there is no such key. One that is full stays so.
 *
 * An attachment's number is the class id of the filter: one program serves all links, and none
 * looks at an interface index. `links` has what all flows through an attachment share. A record
 * has the generations of the attachment that its frames come from and of the one they go to, so
 * another one in `links` makes every flow of that attachment, both directions, miss at once.
 *
 * A flow is idle when neither direction was used for its limit: then it misses, whoever is to
 * remove it. Times are those of CLOCK_MONOTONIC plus `control.clock_offset`.
 *
 * What is turned round in the other record of a flow is the key: a line that is not of this key's flow
 * is left alone.
 *
 * A record begins armed, with the top bit of its `packets`: its frames are misses that are counted there,
 * one each, and say so by the kind of their tag (802.1ad). Whoever forwards them exchanges the word
 * for 0 when it has forwarded as many. So no frame that waits is overtaken by a hit behind it: an
 * addition tells what was there before, and either that is armed or the frame is a hit.
 *
 * Checksums are changed by what changes (RFC 1624). A partial one is that of the pseudo-header
 * alone, which the addresses change and the ports do not. A program cannot see whether it is
 * partial, but a change by the helper that ports need leaves a partial one as it is: that tells. A
 * partial checksum that is not of this packet's own pseudo-header is that of a packet inside (a
 * tunnel), or a lie.
 *
 * Helpers and fields are those of Linux 5.10, an addition that tells what was before is of 5.12; no
 * helper is for GPL programs only.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define htons(value) ((__u16)__builtin_bswap16(value))
#define ntohs(value) htons(value)
#define ntohl(value) ((__u32)__builtin_bswap32(value))

#define MISS TC_ACT_UNSPEC
#define COUNTED_MISS (-2)
#define ARMED (1ull << 63)
#define DONT_FRAGMENT 0x4000
#define LINK_HAS_PEER 1u
#define LIMITS 6
#define CELLS 65536
/* Odd numbers without a pattern: the upper bits of the sum of products depend on all of a key. */
#define FIRST_FACTOR 0x9e3779b97f4a7c15ull
#define SECOND_FACTOR 0xc2b2ae3d27d4eb4full
/* Any number that is not 0 in one's complement. */
#define PROBE 1u

#define UDP_FRAME (ETH_HLEN + sizeof(struct iphdr) + sizeof(struct udphdr))
#define TCP_FRAME (ETH_HLEN + sizeof(struct iphdr) + sizeof(struct tcphdr))
#define UDP_CHECK (ETH_HLEN + sizeof(struct iphdr) + __builtin_offsetof(struct udphdr, check))
#define TCP_CHECK (ETH_HLEN + sizeof(struct iphdr) + __builtin_offsetof(struct tcphdr, check))

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static __u64 (*bpf_ktime_get_ns)(void) = (void *)BPF_FUNC_ktime_get_ns;
static long (*bpf_skb_pull_data)(struct __sk_buff *, __u32 bytes) = (void *)BPF_FUNC_skb_pull_data;
static long (*bpf_l4_csum_replace)(struct __sk_buff *, __u32 offset, __u64 from, __u64 to,
				   __u64 flags) = (void *)BPF_FUNC_l4_csum_replace;
static long (*bpf_skb_vlan_push)(struct __sk_buff *, __be16 protocol, __u16 tag) =
	(void *)BPF_FUNC_skb_vlan_push;
static long (*bpf_redirect)(__u32 index, __u64 flags) = (void *)BPF_FUNC_redirect;
static long (*bpf_redirect_peer)(__u32 index, __u64 flags) = (void *)BPF_FUNC_redirect_peer;

/* Addresses and ports are in network byte order throughout, all else in the machine's. */
struct key {
	__be32 source, destination;
	__be16 source_port, destination_port;
	__u16 attachment;
	__u8 protocol;
	__u8 zero;
};

struct record {
	__u64 last_use;			/* ns */
	__u64 packets, bytes;		/* segments, and their bytes of IP; frames while ARMED */
	__u32 sequence_end, acknowledged;
	__be32 source, destination;	/* as they leave */
	__be16 source_port, destination_port;
	__u16 address_difference;	/* new less old, in one's complement: both addresses, */
	__u16 port_difference;		/* both ports */
	__u8 next_hop[ETH_ALEN];
	__u16 out;			/* the attachment by which they leave */
	__u16 in_generation;		/* 0: nobody's */
	__u16 out_generation;
	__u16 window;			/* unscaled, that went with `acknowledged` */
	__u8 limit;			/* which of the idle limits */
	__u8 zero;
};

struct link {
	__u32 index;			/* of the near end, in the namespace of the filters */
	__u16 generation;		/* 0: not served */
	__u16 mtu;			/* bytes of IP */
	__u8 address[ETH_ALEN];
	__u16 flags;
};

struct control {
	__s64 clock_offset;		/* ns */
	__u64 limits[LIMITS];		/* ns idle */
	__u32 punt;			/* index of the punt link's near end; 0: there is none */
	__u32 grace;			/* odd: somebody waits until no program is at work; not ours */
	__u8 cells[CELLS];		/* how many keys have this digest */
};

/* How the loader is to make a map; how many entries it has is not known here. */
struct map {
	__u32 kind, key_bytes, value_bytes, flags;
};

struct map keys SECTION("maps") = {BPF_MAP_TYPE_HASH, sizeof(struct key), sizeof(__u32), 0};
struct map records SECTION("maps") = {BPF_MAP_TYPE_ARRAY, sizeof(__u32), sizeof(struct record),
				      BPF_F_MMAPABLE};
struct map links SECTION("maps") = {BPF_MAP_TYPE_ARRAY, sizeof(__u32), sizeof(struct link),
				    BPF_F_MMAPABLE};
struct map control SECTION("maps") = {BPF_MAP_TYPE_ARRAY, sizeof(__u32), sizeof(struct control),
				      BPF_F_MMAPABLE};

_Static_assert(sizeof(struct key) == 16, "key");
_Static_assert(sizeof(struct record) == 64, "one cache line");
_Static_assert(sizeof(struct link) == 16, "link");
_Static_assert(__builtin_offsetof(struct control, cells) == 64, "one cache line before the cells");

/* What a frame says that the rest needs to know. */
struct packet {
	__u32 total_length;
	__u32 headers;			/* bytes of IP and TCP or UDP header */
	__u32 segments;
	__u32 sequence_end, acknowledged;
	__u16 window;
	__u16 check;			/* as it stands */
};

INLINE __u32 folded(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

INLINE int header_is_sound(const struct iphdr *ip)
{
	const __u32 *words = (const __u32 *)ip;

	return folded((__u64)words[0] + words[1] + words[2] + words[3] + words[4]) == 0xffff;
}

/* Whether a frame may be one of an established flow; fills in its key and what it says. */
INLINE int read(struct __sk_buff *frame, struct key *key, struct packet *packet)
{
	void *data, *end;
	struct iphdr *ip;

	if (frame->pkt_type != PACKET_HOST || frame->vlan_present ||
	    frame->protocol != htons(ETH_P_IP))
		return 0;
	if (frame->data + TCP_FRAME > frame->data_end)
		bpf_skb_pull_data(frame, frame->len < TCP_FRAME ? frame->len : TCP_FRAME);
	data = (void *)(long)frame->data;
	end = (void *)(long)frame->data_end;
	if (data + UDP_FRAME > end)
		return 0;
	ip = data + ETH_HLEN;
	if (*(__u8 *)ip != 0x45 || ip->frag_off != htons(DONT_FRAGMENT) || ip->ttl <= 1 ||
	    !header_is_sound(ip))
		return 0;
	packet->total_length = ntohs(ip->tot_len);
	if (packet->total_length + ETH_HLEN != frame->len)
		return 0;
	if (ip->protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = (void *)(ip + 1);

		if ((void *)(tcp + 1) > end || tcp->syn || tcp->fin || tcp->rst || !tcp->ack ||
		    tcp->doff < 5)
			return 0;
		packet->headers = sizeof(*ip) + tcp->doff * 4;
		if (packet->headers > packet->total_length)
			return 0;
		packet->sequence_end = ntohl(tcp->seq) + packet->total_length - packet->headers;
		packet->acknowledged = ntohl(tcp->ack_seq);
		packet->window = ntohs(tcp->window);
		packet->check = tcp->check;
	} else if (ip->protocol == IPPROTO_UDP) {
		struct udphdr *udp = (void *)(ip + 1);

		packet->headers = sizeof(*ip) + sizeof(*udp);
		if (ntohs(udp->len) + sizeof(*ip) != packet->total_length)
			return 0;
		packet->check = udp->check;
	} else {
		return 0;
	}
	packet->segments = 1;
	if (frame->gso_size) {
		packet->segments = frame->gso_segs;
		if (!packet->segments)
			return 0;
	}
	key->source = ip->saddr;
	key->destination = ip->daddr;
	/* Ports stand at the same place in both. */
	key->source_port = ((struct udphdr *)(ip + 1))->source;
	key->destination_port = ((struct udphdr *)(ip + 1))->dest;
	key->protocol = ip->protocol;
	return 1;
}

INLINE int is_tcp(const struct key *key)
{
	return key->protocol == IPPROTO_TCP;
}

/* Whether there may be such a key. */
INLINE int may_be_cached(const struct control *settings, const struct key *key)
{
	__u64 first = (__u64)key->destination << 32 | key->source;
	__u64 second = (__u64)((__u32)key->protocol << 16 | key->attachment) << 32 |
		       ((__u32)key->destination_port << 16 | key->source_port);

	return settings->cells[(first * FIRST_FACTOR + second * SECOND_FACTOR) >> 48] != 0;
}

INLINE int check_now(struct __sk_buff *frame, __u32 offset, __u16 *check)
{
	void *at = (void *)(long)frame->data + offset;

	if (at + sizeof(*check) > (void *)(long)frame->data_end)
		return 0;
	*check = *(__u16 *)at;
	return 1;
}

/*
 * The checksum of TCP or UDP, made that of the rewritten packet; on a miss it is as it was. What
 * the later changes need of the frame the first one has had: they do not fail. If they did, the
 * frame would go on with a wrong checksum, and be counted by whoever finds that out.
 */
INLINE int sum(struct __sk_buff *frame, const struct key *key, const struct packet *packet,
	       const struct record *record)
{
	__u32 offset = is_tcp(key) ? TCP_CHECK : UDP_CHECK;
	__u32 mark = is_tcp(key) ? 0 : BPF_F_MARK_MANGLED_0;
	__u32 addresses = record->address_difference, ports = record->port_difference, probe = 0;
	__u16 check;

	/* RFC 768: the sender has made none. */
	if (!is_tcp(key) && !packet->check)
		return 1;
	if (ports == 0 || ports == 0xffff)
		probe = PROBE;
	if (bpf_l4_csum_replace(frame, offset, 0, probe ? probe : ports, mark) ||
	    !check_now(frame, offset, &check))
		return 0;
	if (check == packet->check) {
		__u64 pseudo = (__u64)key->source + key->destination + htons(key->protocol) +
			       htons(packet->total_length - sizeof(struct iphdr));

		if (folded(pseudo) != check)
			return 0;
	} else if (probe && bpf_l4_csum_replace(frame, offset, 0, 0xffff - probe, mark)) {
		return 0;
	}
	return !bpf_l4_csum_replace(frame, offset, 0, addresses, BPF_F_PSEUDO_HDR | mark);
}

INLINE void copy_address(void *to, const void *from)
{
	for (int half = 0; half < ETH_ALEN / 2; half++)
		((__u16 *)to)[half] = ((const __u16 *)from)[half];
}

INLINE int rewrite(struct __sk_buff *frame, const struct record *record, const struct link *out)
{
	void *data = (void *)(long)frame->data;
	struct ethhdr *ethernet = data;
	struct iphdr *ip = data + ETH_HLEN;
	struct udphdr *ports = (void *)(ip + 1);

	if ((void *)(ports + 1) > (void *)(long)frame->data_end)
		return 0;
	copy_address(ethernet->h_dest, record->next_hop);
	copy_address(ethernet->h_source, out->address);
	/* One less in a word's first byte: 0xfffe more in one's complement, little-endian. */
	ip->check = ~folded((__u64)(__u16)~ip->check + record->address_difference + 0xfffe);
	ip->ttl--;
	ip->saddr = record->source;
	ip->daddr = record->destination;
	ports->source = record->source_port;
	ports->dest = record->destination_port;
	return 1;
}

/* What the tracker (engine/flows/tracker.pxd) keeps of a segment, by its rules. */
INLINE void track(struct record *record, const struct record *other, const struct packet *packet)
{
	if ((__s32)(packet->sequence_end - record->sequence_end) > 0)
		record->sequence_end = packet->sequence_end;
	if ((__s32)(packet->acknowledged - other->sequence_end) <= 0 &&
	    (__s32)(packet->acknowledged - record->acknowledged) >= 0) {
		record->acknowledged = packet->acknowledged;
		record->window = packet->window;
	}
}

/* Forward a frame of an established flow; MISS or COUNTED_MISS when it is none. */
INLINE int forward(struct __sk_buff *frame, __u32 number, const struct control *settings)
{
	struct key key = {};
	struct packet packet = {};
	struct record *record, *other;
	const struct link *in, *out;
	__u32 line, *found;
	__u64 now, which, counted = 0;
	__s64 limit;

	in = bpf_map_lookup_elem(&links, &number);
	if (!in || !in->generation || !read(frame, &key, &packet))
		return MISS;
	key.attachment = number;
	if (!may_be_cached(settings, &key))
		return MISS;
	found = bpf_map_lookup_elem(&keys, &key);
	if (!found)
		return MISS;
	line = *found;
	record = bpf_map_lookup_elem(&records, &line);
	line ^= 1;
	other = bpf_map_lookup_elem(&records, &line);
	if (!record || !other || record->in_generation != in->generation)
		return MISS;
	/* A key that is removed meanwhile may be another's by now, and lead to another line. */
	if (other->source != key.destination || other->destination != key.source ||
	    other->source_port != key.destination_port ||
	    other->destination_port != key.source_port || other->out != key.attachment)
		return MISS;
	which = record->limit;
	/* The verifier has to see the very number compared that is the index. */
	asm volatile("" : "+r"(which));
	if (which >= LIMITS)
		return MISS;
	limit = settings->limits[which];
	number = record->out;
	out = bpf_map_lookup_elem(&links, &number);
	if (!out || !out->generation || out->generation != record->out_generation)
		return MISS;
	if (packet.total_length > out->mtu &&
	    (!frame->gso_size || packet.headers + frame->gso_size > out->mtu))
		return MISS;
	now = bpf_ktime_get_ns() + settings->clock_offset;
	if ((__s64)(now - record->last_use) >= limit && (__s64)(now - other->last_use) >= limit)
		return MISS;
	if (record->packets & ARMED) {
		counted = 1;
		if (__sync_fetch_and_add(&record->packets, counted) & ARMED)
			return COUNTED_MISS;
	}
	if (!sum(frame, &key, &packet, record) || !rewrite(frame, record, out)) {
		__sync_fetch_and_sub(&record->packets, counted);
		return MISS;
	}
	record->last_use = now;
	/* Two processors may send in one direction of a flow. */
	__sync_fetch_and_add(&record->packets, packet.segments - counted);
	__sync_fetch_and_add(&record->bytes,
			     packet.total_length + (packet.segments - 1) * packet.headers);
	if (is_tcp(&key))
		track(record, other, &packet);
	if (out->flags & LINK_HAS_PEER)
		return bpf_redirect_peer(out->index, 0);
	return bpf_redirect(out->index, 0);
}

SECTION("tc") int flow_cache(struct __sk_buff *frame)
{
	__u32 number = frame->tc_classid, zero = 0;
	const struct control *settings = bpf_map_lookup_elem(&control, &zero);
	__u16 tag = htons(ETH_P_8021Q);
	int action;

	if (!settings)
		return MISS;
	action = forward(frame, number, settings);
	if (action == COUNTED_MISS) {
		tag = htons(ETH_P_8021AD);
		action = MISS;
	}
	if (action != MISS || !settings->punt)
		return action;
	if (bpf_skb_vlan_push(frame, tag, number))
		return MISS;
	return bpf_redirect_peer(settings->punt, 0);
}

char licence[] SECTION("license") = "Apache-2.0";
