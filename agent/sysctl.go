package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// sysctls writes kernel settings below root, /proc/sys on a card.
type sysctls struct {
	root string
	log  *Log
}

// set writes a value. A setting that the kernel does not have (no IPv6, a network
// namespace other than the first) only gets a line in the log.
func (s sysctls) set(key, value string) {
	if err := s.try(key, value); err != nil {
		s.log.Printf("sysctl: %v", err)
	}
}

func (s sysctls) try(key, value string) error {
	f, err := os.OpenFile(filepath.Join(s.root, key), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("%s = %q: %w", key, value, err)
	}
	return nil
}

// early makes the settings that the first connection over the link needs: a
// socket gets its buffer sizes when it is created.
func (s sysctls) early(memory uint64) {
	top, middle := bufferSizes(memory)
	// One segment on the link is 64 KiB. With the kernel's 128 KiB a window holds
	// two of them, and the first transfers stall. An initial window of a few MiB
	// holds a whole burst.
	sizes := fmt.Sprintf("4096 %d %d", middle, top)
	s.set("net/ipv4/tcp_rmem", sizes)
	s.set("net/ipv4/tcp_wmem", sizes)
	// By default all TCP together gets at most an eighth of a small memory, in
	// pages, and windows shrink above a sixteenth: that is two connections over the
	// link. A card needs its memory for little else.
	pages := memory / uint64(os.Getpagesize())
	s.set("net/ipv4/tcp_mem", fmt.Sprintf("%d %d %d", pages/8, pages/4, pages*3/8))
	// An idle sender keeps its window: the link does not congest.
	s.set("net/ipv4/tcp_slow_start_after_idle", "0")
}

// late makes the settings for forwarding and for programs on the card.
func (s sysctls) late(memory uint64) {
	top, _ := bufferSizes(memory)
	for _, key := range []string{"rmem_max", "wmem_max"} {
		s.set("net/core/"+key, strconv.FormatUint(top, 10))
	}
	s.set("net/core/somaxconn", "4096")
	// Link and ports usually share one CPU: process more packets in the softirq
	// before ksoftirqd, which must be scheduled, takes over.
	s.set("net/core/netdev_budget", "600")
	// By default the kernel tracks 2048 connections on a card of 256 MiB, including
	// those that ended within two minutes, and drops new ones above that, even the
	// host's to the control API. An entry takes about 320 bytes: a full table takes
	// a twelfth of the memory.
	tracked := trackedMost(memory)
	s.set("net/netfilter/nf_conntrack_max", strconv.FormatUint(tracked, 10))
	s.set("net/netfilter/nf_conntrack_buckets", strconv.FormatUint(tracked/4, 10))

	// By default ARP on a port answers for any address of the card, the link's
	// included. Answer only for the port's own.
	s.set("net/ipv4/conf/all/arp_ignore", "1")
	s.set("net/ipv4/conf/all/arp_announce", "2")
	// A router on the path may drop large packets silently. The kernel then probes
	// the path MTU (RFC 4821).
	s.set("net/ipv4/tcp_mtu_probing", "1")
	// Redirects would let the wire, or the host, change the card's routes.
	for _, conf := range []string{"all", "default"} {
		s.set("net/ipv4/conf/"+conf+"/accept_redirects", "0")
		s.set("net/ipv4/conf/"+conf+"/send_redirects", "0")
		s.set("net/ipv4/conf/"+conf+"/accept_source_route", "0")
		s.set("net/ipv6/conf/"+conf+"/accept_redirects", "0")
	}
	s.set("net/ipv4/ip_forward", "1")
	s.set("net/ipv6/conf/all/forwarding", "1")
}

// bufferSizes are the largest and the initial size of a TCP buffer, in bytes: 32
// and 4 MiB, or a sixteenth and a 256th of a small memory. A larger initial size
// gains nothing: a reader that falls behind finds its data in memory instead of
// the cache.
func bufferSizes(memory uint64) (top, middle uint64) {
	const mib = 1 << 20
	return max(min(32*mib, memory/16), mib), max(min(4*mib, memory/256), mib/2)
}

// trackedMost is the number of connections to track: 65,536 on 256 MiB.
func trackedMost(memory uint64) uint64 { return max(memory/4096, 4096) }

// forLink makes the settings of a link: a wire with exactly two ends.
func (s sysctls) forLink(name string) {
	four, six := "net/ipv4/conf/"+name+"/", "net/ipv6/conf/"+name+"/"
	// Strict: a packet's source must be routed back to the link. The host must not
	// use addresses that are out of a port.
	s.set(four+"rp_filter", "1")
	// The link has no other node: no duplicate to detect, no router, no need for a
	// link-local address. So an address works at once.
	s.set(six+"accept_dad", "0")
	s.set(six+"dad_transmits", "0")
	s.set(six+"accept_ra", "0")
	s.set(six+"autoconf", "0")
	s.set(six+"addr_gen_mode", "1")
}

// forPort makes the settings of a port: the wire is hostile.
func (s sysctls) forPort(name string, ra bool) {
	four, six := "net/ipv4/conf/"+name+"/", "net/ipv6/conf/"+name+"/"
	// Loose: with two ports an answer may legitimately come in by the other one
	// (RFC 3704, section 2.4). A forged source gains nothing: the firewall lets
	// nothing new in from a port, and endpoint mode, which publishes services, drops
	// sources of the card and of the links.
	s.set(four+"rp_filter", "2")
	accept := "0"
	if ra {
		accept = "2" // 2: accept although this node forwards
	}
	s.set(six+"accept_ra", accept)
	s.set(six+"accept_redirects", "0")
	s.set(four+"accept_redirects", "0")
	s.set(four+"send_redirects", "0")
}
