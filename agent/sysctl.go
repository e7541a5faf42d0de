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

// set writes a value. What a kernel does not have (no IPv6, another network
// namespace than the first) is worth a line in the log and no more.
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

// early are the settings that must stand before the first connection is
// accepted over the link: a socket takes its buffer sizes when it is made.
func (s sysctls) early(memory uint64) {
	top, middle := bufferSizes(memory)
	// One segment on the link is 64 KiB. With the kernel's 128 KiB a window
	// holds two of them and the first transfers stall; a window of a few MiB
	// from the start holds a whole burst.
	sizes := fmt.Sprintf("4096 %d %d", middle, top)
	s.set("net/ipv4/tcp_rmem", sizes)
	s.set("net/ipv4/tcp_wmem", sizes)
	// The kernel gives all TCP together an eighth of a small memory at most,
	// in pages, and shrinks windows from a sixteenth on: that is two
	// connections over the link. A card does little else with its memory.
	pages := memory / uint64(os.Getpagesize())
	s.set("net/ipv4/tcp_mem", fmt.Sprintf("%d %d %d", pages/8, pages/4, pages*3/8))
	// A sender that rested keeps its window: the link does not congest.
	s.set("net/ipv4/tcp_slow_start_after_idle", "0")
}

// late are the settings for forwarding and for programs on the card.
func (s sysctls) late(memory uint64) {
	top, _ := bufferSizes(memory)
	for _, key := range []string{"rmem_max", "wmem_max"} {
		s.set("net/core/"+key, strconv.FormatUint(top, 10))
	}
	s.set("net/core/somaxconn", "4096")
	// Link and ports share the one CPU that a card usually has: more packets
	// a turn before the queue is handed to a thread that must be scheduled.
	s.set("net/core/netdev_budget", "600")
	// By itself the kernel tracks 2048 connections on a card of 256 MiB, those
	// that ended two minutes ago among them, and drops what is new beyond
	// that, from the host's control API too. An entry takes some 320 bytes: a
	// full table a twelfth of the memory.
	tracked := trackedMost(memory)
	s.set("net/netfilter/nf_conntrack_max", strconv.FormatUint(tracked, 10))
	s.set("net/netfilter/nf_conntrack_buckets", strconv.FormatUint(tracked/4, 10))

	// On a port any address of the card could be asked for by ARP, the
	// link's too. The wire is told only of the port's own.
	s.set("net/ipv4/conf/all/arp_ignore", "1")
	s.set("net/ipv4/conf/all/arp_announce", "2")
	// A router on the way may drop what is too large for it and never say so:
	// the kernel then finds out by itself (RFC 4821).
	s.set("net/ipv4/tcp_mtu_probing", "1")
	// Redirects would let the wire, or one host, change the card's routes.
	for _, who := range []string{"all", "default"} {
		s.set("net/ipv4/conf/"+who+"/accept_redirects", "0")
		s.set("net/ipv4/conf/"+who+"/send_redirects", "0")
		s.set("net/ipv4/conf/"+who+"/accept_source_route", "0")
		s.set("net/ipv6/conf/"+who+"/accept_redirects", "0")
	}
	s.set("net/ipv4/ip_forward", "1")
	s.set("net/ipv6/conf/all/forwarding", "1")
}

// bufferSizes are the largest and the initial size of a TCP buffer, in
// bytes: 32 and 4 MiB, or a sixteenth and a 256th of a small memory. More to begin
// with is no gain: a reader that falls behind then finds its data in memory in
// place of the cache.
func bufferSizes(memory uint64) (top, middle uint64) {
	const mib = 1 << 20
	return max(min(32*mib, memory/16), mib), max(min(4*mib, memory/256), mib/2)
}

// trackedMost is how many connections are tracked: 65,536 on 256 MiB.
func trackedMost(memory uint64) uint64 { return max(memory/4096, 4096) }

// link settings: a wire of two ends, where nobody else can be.
func (s sysctls) forLink(name string) {
	four, six := "net/ipv4/conf/"+name+"/", "net/ipv6/conf/"+name+"/"
	// What comes from the host must be what would go back to it: the host
	// may not speak for addresses out of a port.
	s.set(four+"rp_filter", "1")
	// Nobody else is there: no duplicate to detect, no router to listen to,
	// no link-local address to make, so an address works at once.
	s.set(six+"accept_dad", "0")
	s.set(six+"dad_transmits", "0")
	s.set(six+"accept_ra", "0")
	s.set(six+"autoconf", "0")
	s.set(six+"addr_gen_mode", "1")
}

// port settings: the wire is hostile.
func (s sysctls) forPort(name string, ra bool) {
	four, six := "net/ipv4/conf/"+name+"/", "net/ipv6/conf/"+name+"/"
	// Loose: with two ports an answer may rightly come in by the other one
	// (RFC 3704, section 2.4). A forged source gains nothing: the firewall
	// lets nothing new in from a port, and endpoint mode, which publishes
	// services, drops sources of the card and of the links.
	s.set(four+"rp_filter", "2")
	accept := "0"
	if ra {
		accept = "2" // 2: although this node forwards
	}
	s.set(six+"accept_ra", accept)
	s.set(six+"accept_redirects", "0")
	s.set(four+"accept_redirects", "0")
	s.set(four+"send_redirects", "0")
}
