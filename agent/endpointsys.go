package agent

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/control"
)

// maxFiles is how many descriptors the agent may have. A connection has two
// sockets, and pipes while something is on its way: room for 40,000.
const maxFiles = 262144

// allowFiles raises the limits on open files. The kernel gives process 1
// 4096 of them (fs.nr_open, a million, is the most that can be given). All
// processes together get a tenth of the memory in KiB, 25,000 on a card of
// 256 MiB: that does not bind us, who have CAP_SYS_ADMIN, but would bind
// whoever is on the card besides as soon as we are over it.
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

// endpoint are the settings for a card that has the connections of a whole
// host. The kernel's own defaults follow from the memory alone and take a
// small one for a small machine: with 256 MiB, room for 2048 tracked
// connections, and 1024 closing ones. memory is in bytes.
func (s sysctls) endpoint(memory uint64) {
	// A flood of SYNs at a published port: beyond somaxconn (late) half-open
	// connections of a listener, 300 bytes each, SYNs are answered by cookies
	// (1: only then), which keep nothing. So it shuts nobody out, and nothing
	// of it reaches the host. tcp_max_syn_backlog bounds the same where a
	// kernel has no cookies.
	s.set("net/ipv4/tcp_syncookies", "1")
	s.set("net/ipv4/tcp_max_syn_backlog", "4096")

	// The card asks a silent peer on its own account, for the keepalive of the
	// host's programs ends at the card: one that is silently gone is an error
	// for the other side within four minutes.
	s.set("net/ipv4/tcp_keepalive_time", "120")
	s.set("net/ipv4/tcp_keepalive_intvl", "15")
	s.set("net/ipv4/tcp_keepalive_probes", "8")

	// 64,000 connections to one server, in place of 28,000. What listens is
	// kept out by ip_local_reserved_ports.
	s.set("net/ipv4/ip_local_port_range", "1024 65535")
	// A port whose last connection is in TIME_WAIT serves the next one to
	// the same server after a second: timestamps tell their segments apart
	// (RFC 6191). Else 1,000 connections a second to one server were the end.
	s.set("net/ipv4/tcp_tw_reuse", "1")
	// 256 bytes each, 8 MiB at most on a card of 256 MiB. Beyond the bound
	// TIME_WAIT is skipped, and an old segment may meet a new connection.
	s.set("net/ipv4/tcp_max_tw_buckets", count(memory, 8<<10, 8192, 1<<18))
	// A connection whose program on the host has closed it has bytes to
	// deliver yet, which have been acknowledged: it is an orphan here, and
	// one too many would be reset. tcp_mem bounds what they hold.
	s.set("net/ipv4/tcp_max_orphans", count(memory, 4<<10, 16384, 1<<18))
	// An orphan whose peer never says FIN is kept for this many seconds, not 60:
	// the peer has acknowledged everything.
	s.set("net/ipv4/tcp_fin_timeout", "30")

	// Where a path is probed (late) the segment size goes down to this base:
	// 1024 bytes fit every path of 1280 that IPv6 guarantees, tunnels too.
	s.set("net/ipv4/tcp_base_mss", "1024")

	// Tracked (late) is the wire's side alone, for the firewall's "answers
	// may come in". When the table is full the kernel gives up first what was
	// never answered, so a flood fills it with itself. The card's sockets have a TIME_WAIT of their own. An entry need only
	// outlive the repetitions of the peer's FIN; at 120 seconds, the kernel's
	// own, 550 connections a second would fill the table.
	s.set("net/netfilter/nf_conntrack_tcp_timeout_time_wait", "10")

	// The card puts together what comes in fragments. A datagram of 64 KiB
	// takes 100 KiB while it does; the kernel's 4 MiB hold 40 of them.
	pieces := count(memory, 16, 4<<20, 64<<20)
	s.set("net/ipv4/ipfrag_high_thresh", pieces)
	s.set("net/ipv6/ip6frag_high_thresh", pieces)
	s.set("net/netfilter/nf_conntrack_frag6_high_thresh", pieces)
}

// count is memory/each as text, between two bounds.
func count(memory, each, low, high uint64) string {
	return strconv.FormatUint(min(max(memory/each, low), high), 10)
}

// reservePorts keeps the kernel from giving an outgoing connection a port
// that the wire reaches a service by, or that the agent listens on.
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
