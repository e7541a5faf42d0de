package agent

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/control"
)

// maxFiles is the limit on the agent's descriptors. A connection has two
// sockets, and pipes while data is in flight: enough for 40,000 connections.
const maxFiles = 262144

// allowFiles raises the limits on open files. Process 1 starts with 4096
// (fs.nr_open, a million, is the maximum). The limit of all processes together
// is a tenth of the memory in KiB, 25,000 on a card of 256 MiB. It does not bind
// the agent, which has CAP_SYS_ADMIN, but once the agent is above it, every other
// process on the card fails to open a file.
func (s sysctls) allowFiles() {
	s.set("fs/file-max", strconv.Itoa(4*maxFiles))
	want := unix.Rlimit{Cur: maxFiles, Max: maxFiles}
	var have unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &have); err == nil && have.Cur >= maxFiles {
		return
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &want); err != nil {
		s.log.Sayf("limit of open files: %v; that bounds the connections", err)
	}
}

// endpoint makes the settings for a card that has the connections of a whole
// host. The kernel derives its defaults from the size of the memory: with
// 256 MiB, 2048 tracked connections and 1024 closing ones. memory is in bytes.
func (s sysctls) endpoint(memory uint64) {
	// A flood of SYNs at a published port: beyond somaxconn (late) half-open
	// connections of a listener, 300 bytes each, SYNs are answered by cookies
	// (1: only then), which keep no state. So the flood locks no client out, and
	// nothing of it reaches the host. tcp_max_syn_backlog bounds the same in a
	// kernel without cookies.
	s.set("net/ipv4/tcp_syncookies", "1")
	s.set("net/ipv4/tcp_max_syn_backlog", "4096")

	// The card probes silent peers itself, because the keepalive of the host's
	// programs ends at the card. A peer that vanished is an error for the other
	// side within four minutes.
	s.set("net/ipv4/tcp_keepalive_time", "120")
	s.set("net/ipv4/tcp_keepalive_intvl", "15")
	s.set("net/ipv4/tcp_keepalive_probes", "8")

	// 64,000 connections to one server instead of 28,000.
	// ip_local_reserved_ports excludes the ports of listeners.
	s.set("net/ipv4/ip_local_port_range", "1024 65535")
	// A port whose last connection is in TIME_WAIT serves the next one to
	// the same server after a second: timestamps tell their segments apart
	// (RFC 6191). Without it 1,000 connections a second to one server exhaust the
	// ports.
	s.set("net/ipv4/tcp_tw_reuse", "1")
	// 256 bytes each, 8 MiB at most on a card of 256 MiB. Beyond the bound
	// TIME_WAIT is skipped, and an old segment may meet a new connection.
	s.set("net/ipv4/tcp_max_tw_buckets", count(memory, 8<<10, 8192, 1<<18))
	// A connection that the host's program has closed may still have acknowledged
	// bytes to deliver. Here it is an orphan, and the kernel resets orphans above
	// the limit. tcp_mem bounds their memory.
	s.set("net/ipv4/tcp_max_orphans", count(memory, 4<<10, 16384, 1<<18))
	// An orphan whose peer sends no FIN is kept for this many seconds instead of
	// 60: the peer has acknowledged everything.
	s.set("net/ipv4/tcp_fin_timeout", "30")

	// Path MTU probing (late) lowers the segment size to this base: 1024 bytes fit
	// every path of 1280 that IPv6 guarantees, tunnels included.
	s.set("net/ipv4/tcp_base_mss", "1024")

	// Only the wire's side is tracked (late), for the firewall's "answers may come
	// in". When the table is full the kernel evicts unanswered entries first, so a
	// flood evicts itself. The card's sockets have a TIME_WAIT of their own, so an
	// entry need only outlive the retransmissions of the peer's FIN. With 120
	// seconds, the kernel's default, 550 connections a second fill the table.
	s.set("net/netfilter/nf_conntrack_tcp_timeout_time_wait", "10")

	// The card reassembles fragments. A datagram of 64 KiB takes 100 KiB meanwhile;
	// the kernel's 4 MiB hold 40 of them.
	pieces := count(memory, 16, 4<<20, 64<<20)
	s.set("net/ipv4/ipfrag_high_thresh", pieces)
	s.set("net/ipv6/ip6frag_high_thresh", pieces)
	s.set("net/netfilter/nf_conntrack_frag6_high_thresh", pieces)
}

// count is memory/each as text, between two bounds.
func count(memory, each, low, high uint64) string {
	return strconv.FormatUint(min(max(memory/each, low), high), 10)
}

// reservePorts keeps the kernel from choosing, for an outgoing connection, a
// published port or a port that the agent listens on.
func (s sysctls) reservePorts(c *control.Config) {
	var ports []int
	for _, p := range c.Publish {
		ports = append(ports, int(p.Port))
	}
	ports = append(ports, control.APIPort, control.ProxyPort)
	slices.Sort(ports)
	text := make([]string, 0, len(ports))
	for _, p := range slices.Compact(ports) {
		text = append(text, fmt.Sprint(p))
	}
	s.set("net/ipv4/ip_local_reserved_ports", strings.Join(text, ","))
}
