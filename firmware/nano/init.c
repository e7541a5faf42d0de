// The init of the nano edition: PID 1, and the only program of a card whose CPU has no MMU. It
// names the interfaces, gives them addresses, routes between link and ports, answers questions
// over the link, and reboots when told. docs/nano.md has its file and its protocol.
//
// The loader for CPUs without MMU applies no relocations, so no table holds a pointer. Nothing is
// allocated. What comes from the file, the kernel or a socket is checked against its length first.
// The C library is nolibc of the kernel; tests include that of the host with -include.
#ifndef HOSTED
#pragma GCC visibility push(hidden) // of what has another one, the address needs a relocation
#include "nolibc.h"
#include <asm/socket.h>
enum { AF_INET = 2, AF_INET6 = 10, AF_NETLINK = 16, SOCK_DGRAM = 2, SOCK_RAW = 3 };
#endif
#include <linux/in.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/reboot.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
enum { UP = 1, NOARP = 1 << 7 }; // linux/if.h, which includes a file of the C library

#define LEN(a) (sizeof(a) / sizeof((a)[0]))
typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

// die ends the card: the end of PID 1 is a panic of the kernel, with this before it on the console.
static int die(const char *why)
{
	write(2, "nano: ", 6);
	write(2, why, strlen(why));
	write(2, " failed\n", 8);
	_exit(1);
}

// Numbers in the file and in messages are big-endian.
static u64 get(const u8 *p, int n)
{
	u64 v = 0;
	while (n--)
		v = v << 8 | *p++;
	return v;
}

static void set(u8 *p, u64 v, int n)
{
	for (; n--; v >>= 8)
		p[n] = (u8)v;
}

// The file consists of records of 32 bytes.
struct record {
	u8 kind;           // 'K' key, 'L' link, 'P' port, 'A' address, 'G' gateway, 'M' masquerade
	u8 device;         // A, G: index of the L or P record among these, from 0
	u8 length, bits;   // A, G: 4 or 16, and A: the prefix length; P: the two are the MTU
	u8 mac[6], pad[6]; // L, P: of the device when the card starts
	u8 value[16];      // K: the key; L, P: the name; A, G: the address
};

struct device {
	struct record r;
	u32 mtu, index;
	int error; // of the kernel, 0 for none
};

static struct config {
	u8 key[16];
	bool keyed, masquerade;
	u32 devices, addresses;
	struct device device[10];
	struct record address[32];
} config;

static bool new_device(struct config *c, const struct record *r)
{
	const u8 *name = r->value;
	if (c->devices == LEN(c->device) || !name[0] || name[0] == '.' || name[15])
		return false;
	for (; *name; name++)
		if (*name <= ' ' || *name > '~' || *name == '/' || *name == ':' || *name == '%')
			return false;
	struct device *d = &c->device[c->devices++];
	d->r = *r;
	d->mtu = r->kind == 'L' ? 65535 : (u32)get(&r->length, 2);
	return d->mtu >= 1280;
}

static bool new_address(struct config *c, const struct record *r)
{
	if (c->addresses == LEN(c->address) || r->device >= c->devices ||
	    (r->length != 4 && r->length != 16) || (r->kind == 'A' && r->bits > r->length * 8))
		return false;
	c->address[c->addresses++] = *r;
	return true;
}

static bool take(struct config *c, const struct record *r)
{
	if (r->kind == 'L' || r->kind == 'P')
		return new_device(c, r);
	if (r->kind == 'A' || r->kind == 'G')
		return new_address(c, r);
	if (r->kind == 'K')
		memcpy(c->key, r->value, sizeof c->key);
	c->keyed |= r->kind == 'K';
	c->masquerade |= r->kind == 'M';
	return r->kind == 'K' || r->kind == 'M';
}

// parse reports whether the file is right: a key, and a link as the first device.
static bool parse(struct config *c, const struct record *file, size_t size)
{
	memset(c, 0, sizeof *c);
	for (size_t i = 0; i < size / sizeof *file; i++)
		if (!take(c, &file[i]))
			return false;
	return size % sizeof *file == 0 && c->keyed && c->devices && c->device[0].r.kind == 'L';
}

// Netlink: a batch of messages. What does not fit makes it bad, and a bad one is not sent.
static struct {
	_Alignas(4) u8 at[8 << 10];
	u32 n, open[8], depth;
	int acks;
	bool bad;
} out;

static void put(const void *data, u32 n)
{
	u32 padded = (n + 3) & ~3u;
	if (out.bad || padded > sizeof out.at - out.n) {
		out.bad = true;
		return;
	}
	memcpy(out.at + out.n, data, n);
	memset(out.at + out.n + n, 0, padded - n);
	out.n += padded;
}

static void attr(u32 type, const void *data, u32 n)
{
	u16 head[2] = {(u16)(n + 4), (u16)type};
	put(head, sizeof head);
	put(data, n);
}

static void attr_string(u32 type, const char *s) { attr(type, s, (u32)strlen(s) + 1); }
static void attr_be32(u32 type, u32 v)
{
	u8 bytes[4];
	set(bytes, v, 4);
	attr(type, bytes, 4);
}

// opened begins a message or a nested attribute; closed ends the innermost ones.
static void opened(void)
{
	out.bad |= out.depth == LEN(out.open);
	if (!out.bad)
		out.open[out.depth++] = out.n;
}

static void closed(int levels)
{
	while (levels-- && !out.bad && out.depth) {
		u32 at = out.open[--out.depth];
		u16 n = (u16)(out.n - at); // little-endian: the upper half of a message's length is 0
		memcpy(out.at + at, &n, sizeof n);
	}
}

static void nest(u32 type)
{
	opened();
	attr(NLA_F_NESTED | type, "", 0);
}

static void message(u32 type, u32 flags, const void *head, u32 n)
{
	struct nlmsghdr h = {0, (u16)type, (u16)(NLM_F_REQUEST | flags), 0, 0};
	opened();
	put(&h, sizeof h);
	put(head, n);
	out.acks += !!(flags & NLM_F_ACK);
}

// acks counts the acknowledgements in what the kernel sent, or returns its error.
static int acks(const u8 *in, size_t n)
{
	struct nlmsghdr h;
	int error, count = 0;
	for (size_t step; n >= sizeof h; in += step, n -= step) {
		memcpy(&h, in, sizeof h);
		if (h.nlmsg_len < sizeof h || h.nlmsg_len > n)
			return -EBADMSG;
		if (h.nlmsg_type == NLMSG_ERROR) {
			error = -EBADMSG;
			if (h.nlmsg_len >= sizeof h + sizeof error)
				memcpy(&error, in + sizeof h, sizeof error);
			if (error)
				return error < 0 ? error : -EBADMSG;
			count++;
		}
		step = NLMSG_ALIGN((size_t)h.nlmsg_len);
		if (step > n)
			break;
	}
	return count;
}

// transact sends the batch and empties it. It returns 0 or the kernel's error.
static int transact(int protocol)
{
	static u8 in[8 << 10];
	int want = out.acks, n = out.bad || out.depth ? -EMSGSIZE : 0;
	int fd = (int)syscall(__NR_socket, AF_NETLINK, SOCK_RAW, protocol);
	if (fd < 0 || (!n && syscall(__NR_sendto, fd, out.at, out.n, 0, 0, 0) < 0))
		n = -EIO;
	for (struct pollfd p = {fd, POLLIN, 0}; n >= 0 && want > 0; want -= n) {
		n = poll(&p, 1, 5000) > 0 ? (int)syscall(__NR_recvfrom, fd, in, sizeof in, 0, 0, 0) : -1;
		n = n < 0 ? -EIO : acks(in, (size_t)n);
	}
	close(fd);
	memset(&out, 0, sizeof out);
	return n < 0 ? n : 0;
}

// The rules. Links and ports are two groups of interfaces.
enum { LINKS = 1, PORTS = 2 };

static void nft(u32 type, u32 flags)
{
	struct nfgenmsg head = {NFPROTO_INET, 0, 0};
	message(NFNL_SUBSYS_NFTABLES << 8 | type, NLM_F_CREATE | NLM_F_ACK | flags, &head, sizeof head);
}

static void batch(u32 type)
{
	u8 head[4] = {0, 0, 0, NFNL_SUBSYS_NFTABLES};
	message(type, 0, head, sizeof head);
	closed(1);
}

static void chain(const char *name, const char *type, u32 hook, u32 priority)
{
	nft(NFT_MSG_NEWCHAIN, 0);
	attr_string(NFTA_CHAIN_TABLE, "toe");
	attr_string(NFTA_CHAIN_NAME, name);
	attr_string(NFTA_CHAIN_TYPE, type);
	nest(NFTA_CHAIN_HOOK);
	attr_be32(NFTA_HOOK_HOOKNUM, hook);
	attr_be32(NFTA_HOOK_PRIORITY, priority);
	closed(2);
}

static void rule(const char *chain)
{
	nft(NFT_MSG_NEWRULE, NLM_F_APPEND);
	attr_string(NFTA_RULE_TABLE, "toe");
	attr_string(NFTA_RULE_CHAIN, chain);
	nest(NFTA_RULE_EXPRESSIONS);
}

static void expression(const char *name)
{
	nest(NFTA_LIST_ELEM);
	attr_string(NFTA_EXPR_NAME, name);
	nest(NFTA_EXPR_DATA);
}

// when continues a rule if a key of the packet has, or has not, a value.
static void when(const char *name, u32 dreg, u32 key, u32 what, u32 op, u32 value)
{
	expression(name);
	attr_be32(dreg, NFT_REG32_00);
	attr_be32(key, what);
	closed(2);
	expression("cmp");
	attr_be32(NFTA_CMP_SREG, NFT_REG32_00);
	attr_be32(NFTA_CMP_OP, op);
	nest(NFTA_CMP_DATA);
	attr(NFTA_DATA_VALUE, &value, sizeof value);
	closed(3);
}

#define GROUP(key, op, value) when("meta", NFTA_META_DREG, NFTA_META_KEY, key, op, value)
#define NOT_STATE(bit) \
	when("ct", NFTA_CT_DREG, NFTA_CT_KEY, NFT_CT_STATE, NFT_CMP_NEQ, NF_CT_STATE_BIT(bit))

static void drop(void)
{
	expression("immediate");
	attr_be32(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
	nest(NFTA_IMMEDIATE_DATA);
	nest(NFTA_DATA_VERDICT);
	attr_be32(NFTA_VERDICT_CODE, NF_DROP);
	closed(6); // with the rule
}

// firewall lets what comes from a link leave by a port, and answers come back.
static int firewall(bool masquerade)
{
	batch(NFNL_MSG_BATCH_BEGIN);
	nft(NFT_MSG_NEWTABLE, 0);
	attr_string(NFTA_TABLE_NAME, "toe");
	closed(1);
	chain("forward", "filter", NF_INET_FORWARD, 0);
	rule("forward");
	GROUP(NFT_META_IIFGROUP, NFT_CMP_NEQ, LINKS);
	NOT_STATE(IP_CT_ESTABLISHED);
	NOT_STATE(IP_CT_RELATED);
	drop();
	rule("forward");
	GROUP(NFT_META_IIFGROUP, NFT_CMP_EQ, LINKS);
	GROUP(NFT_META_OIFGROUP, NFT_CMP_NEQ, PORTS);
	drop();
	if (masquerade) {
		chain("nat", "nat", NF_INET_POST_ROUTING, 100);
		rule("nat");
		GROUP(NFT_META_IIFGROUP, NFT_CMP_EQ, LINKS);
		GROUP(NFT_META_OIFGROUP, NFT_CMP_EQ, PORTS);
		expression("masq");
		closed(4);
	}
	batch(NFNL_MSG_BATCH_END);
	return transact(NETLINK_NETFILTER);
}

static void enable(const char *path)
{
	int fd = open(path, O_WRONLY);
	if (fd < 0 || write(fd, "1", 1) != 1 || close(fd))
		die(path);
}

// find looks for the device by its MAC address, among the names that the kernel gives.
static int find(struct device *d, int fd)
{
	for (char i = '0'; i <= '9'; i++) {
		struct { char name[16]; u16 type; u8 mac[22]; } r = {{'e', 't', 'h', i}, 0, {0}}; // ifreq
		if (ioctl(fd, SIOCGIFHWADDR, &r) || memcmp(r.mac, d->r.mac, sizeof d->r.mac))
			continue;
		int failed = ioctl(fd, SIOCGIFINDEX, &r);
		memcpy(&d->index, &r.type, sizeof d->index);
		return failed;
	}
	return -ENODEV;
}

// set_link sets the flags, and if named also name, MTU, group and a link's address.
static int set_link(const struct device *d, bool named, u32 flags)
{
	static const u8 link_mac[6] = {0x02, 0x74, 0x6f, 0x65, 0x00, 0x01}; // control.LinkMAC
	struct ifinfomsg head = {.ifi_index = (int)d->index, .ifi_flags = flags, .ifi_change = flags};
	message(RTM_NEWLINK, NLM_F_ACK, &head, sizeof head);
	if (named) {
		attr_string(IFLA_IFNAME, (const char *)d->r.value);
		attr(IFLA_MTU, &d->mtu, 4);
		attr(IFLA_GROUP, &(u32){d->r.kind == 'L' ? LINKS : PORTS}, 4);
		if (d->r.kind == 'L')
			attr(IFLA_ADDRESS, link_mac, sizeof link_mac);
	}
	closed(1);
	return transact(NETLINK_ROUTE);
}

static int add_address(const struct record *a, u32 index)
{
	u8 family = a->length == 4 ? AF_INET : AF_INET6;
	struct rtmsg route = {.rtm_family = family, .rtm_table = RT_TABLE_MAIN,
		.rtm_protocol = RTPROT_STATIC, .rtm_type = RTN_UNICAST};
	struct ifaddrmsg local = {family, a->bits, IFA_F_NODAD, RT_SCOPE_UNIVERSE, index};
	if (a->kind == 'G') {
		message(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE, &route, sizeof route);
		attr(RTA_GATEWAY, a->value, a->length);
		attr(RTA_OIF, &index, sizeof index);
	} else {
		message(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE, &local, sizeof local);
		attr(IFA_LOCAL, a->value, a->length);
		attr(IFA_ADDRESS, a->value, a->length);
	}
	closed(1);
	return transact(NETLINK_ROUTE);
}

// configure brings all up. An error of a device is remembered in it, and the others go on.
static void configure(struct config *c)
{
	int fd = (int)syscall(__NR_socket, AF_INET, SOCK_DGRAM, 0);
	for (struct device *d = c->device; d < c->device + c->devices; d++) {
		d->error = find(d, fd);
		if (!d->error)
			d->error = set_link(d, true, 0);
		if (!d->error)
			d->error = set_link(d, false, UP | (d->r.kind == 'L' ? NOARP : 0));
	}
	for (struct record *a = c->address; a < c->address + c->addresses; a++) {
		struct device *d = &c->device[a->device];
		if (!d->error)
			d->error = add_address(a, d->index);
	}
	close(fd);
}

// SipHash-2-4 (Aumasson and Bernstein, 2012): a code of 64 bits that takes the key to make.
#define ROTATE(v, by) ((v) << (by) | (v) >> (64 - (by)))

static void mix(u64 v[4], int rounds)
{
	while (rounds--) {
		v[0] += v[1], v[1] = ROTATE(v[1], 13) ^ v[0], v[0] = ROTATE(v[0], 32);
		v[2] += v[3], v[3] = ROTATE(v[3], 16) ^ v[2];
		v[0] += v[3], v[3] = ROTATE(v[3], 21) ^ v[0];
		v[2] += v[1], v[1] = ROTATE(v[1], 17) ^ v[2], v[2] = ROTATE(v[2], 32);
	}
}

static u64 siphash(const u8 key[16], const u8 *in, size_t n)
{
	u64 k[2], m, v[4];
	memcpy(k, key, sizeof k); // little-endian, as the algorithm is
	v[0] = k[0] ^ 0x736f6d6570736575, v[1] = k[1] ^ 0x646f72616e646f6d;
	v[2] = k[0] ^ 0x6c7967656e657261, v[3] = k[1] ^ 0x7465646279746573;
	for (size_t at = 0; at <= n; at += 8) {
		m = at + 8 <= n ? 0 : (u64)n << 56;
		memcpy(&m, in + at, at + 8 <= n ? 8 : n - at);
		v[3] ^= m;
		mix(v, 2);
		v[0] ^= m;
	}
	v[2] ^= 0xff;
	mix(v, 4);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

// A question and the head of an answer: magic "toe?" or "toe!", kind 4, number 8. At the end is a
// code of 8 over all before. Between them an answer has the uptime in ms 8, the number of devices
// 4, and for each of these the kernel's error 4.
enum { HEAD = 16, CODE = 8, ANSWER = HEAD + 12 + 10 * 4 + CODE, STATUS = 0, REBOOT, POWER_OFF };

// answer returns the length of the answer, or 0 for none. A command is taken only with a number
// above those of all before: a repeated one does nothing.
static size_t answer(const struct config *c, const u8 *in, size_t n, u8 *to, u64 *last)
{
	struct timespec up = {0};
	if (n != HEAD + CODE || memcmp(in, "toe?", 4) || get(in + 4, 4) > POWER_OFF ||
	    get(in + HEAD, CODE) != siphash(c->key, in, HEAD))
		return 0;
	if (get(in + 4, 4) != STATUS) {
		if (get(in + 8, 8) <= *last)
			return 0;
		*last = get(in + 8, 8);
	}
	memcpy(to, in, HEAD);
	to[3] = '!';
	clock_gettime(CLOCK_BOOTTIME, &up);
	set(to + HEAD, (u64)up.tv_sec * 1000 + (u64)up.tv_nsec / 1000000, 8);
	set(to + HEAD + 8, c->devices, 4);
	n = HEAD + 12;
	for (u32 i = 0; i < c->devices; i++, n += 4)
		set(to + n, (u64)-c->device[i].error, 4);
	set(to + n, siphash(c->key, to, n), CODE);
	return n + CODE;
}

int main(void)
{
	static struct record file[64];
	static u8 in[64], to[ANSWER];
	static u64 last;
	int fd = open("/etc/toe/nano", O_RDONLY);
	ssize_t n = fd < 0 ? -1 : read(fd, file, sizeof file);
	if (n < 0 || n == (ssize_t)sizeof file || !parse(&config, file, (size_t)n))
		return die("reading /etc/toe/nano");
	if (mount("proc", "/proc", "proc", 0, NULL) || firewall(config.masquerade))
		return die("mounting /proc, or nf_tables,");
	enable("/proc/sys/net/ipv4/ip_forward");
	enable("/proc/sys/net/ipv6/conf/all/forwarding");
	configure(&config);
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = __builtin_bswap16(7464)};
	fd = (int)syscall(__NR_socket, AF_INET, SOCK_DGRAM, 0);
	if (syscall(__NR_bind, fd, &at, sizeof at) || syscall(__NR_setsockopt, fd, SOL_SOCKET,
	    SO_BINDTODEVICE, config.device[0].r.value, 16))
		return die("the socket for questions");
	for (;;) {
		u32 size = sizeof at;
		n = syscall(__NR_recvfrom, fd, in, sizeof in, 0, &at, &size);
		size_t len = n < 0 ? 0 : answer(&config, in, (size_t)n, to, &last);
		if (len)
			syscall(__NR_sendto, fd, to, len, 0, &at, size);
		if (len && to[7] != STATUS) {
			poll(NULL, 0, 50); // the answer leaves before the machine does
			reboot((int)(to[7] == REBOOT ? LINUX_REBOOT_CMD_RESTART : LINUX_REBOOT_CMD_POWER_OFF));
		}
	}
}
