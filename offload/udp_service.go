package offload

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// service is a published port: a mapping per address family with endpoint-independent filtering.
// When the host sees the clients' addresses, the mapping also carries what the service sends first,
// so that its peers always see the published port.
type service struct {
	u        *udp
	publish  Publish
	mappings []*mapping
}

// configureServices closes services that are no longer published and opens new ones.
func (u *udp) configureServices(conf Config) error {
	want := map[Publish]bool{}
	for _, p := range conf.Publish {
		if p.Protocol == "udp" {
			want[p] = true
		}
	}
	for p, s := range u.services {
		if !want[p] {
			u.endService(s)
			delete(u.services, p)
		}
	}
	for p := range want {
		if u.services[p] != nil {
			continue
		}
		s := &service{u: u, publish: p}
		u.services[p] = s
		if err := s.open(); err != nil {
			u.endService(s)
			delete(u.services, p)
			return fmt.Errorf("publish UDP port %d: %w", p.Port, err)
		}
	}
	return nil
}

func (s *service) open() error {
	for _, any := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		to, keep := s.publish.target(any)
		fd, err := s.u.servicePort(familyOf(any), s.publish.Port)
		if any.Is6() && errors.Is(err, unix.EAFNOSUPPORT) {
			continue
		}
		o, err := s.u.watchMapping(fd, err, peerOf(to), s)
		if err != nil {
			return err
		}
		o.ours = !keep
		o.take(wirePort{familyOf(any), s.publish.Port})
		s.mappings = append(s.mappings, o)
		if keep && s.u.mappings[o.host] == nil {
			s.u.mappings[o.host] = o
		}
	}
	return nil
}

// servicePort opens the socket of a published port. A mapping of the host that uses the port is
// ended.
func (u *udp) servicePort(family int, port uint16) (int, error) {
	if o := u.wirePorts[wirePort{family, port}]; o != nil && o.service == nil {
		u.endMapping(o)
	}
	return serviceSocket(family, port)
}

func localPort(fd int) uint16 {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return 0
	}
	return addrPort(sa).Port()
}

func (u *udp) endService(s *service) {
	for _, o := range s.mappings {
		o.service = nil
		u.endMapping(o)
	}
}

// endMapping ends a mapping and all its sessions.
func (u *udp) endMapping(o *mapping) {
	for _, t := range u.sessions.all {
		if t.up == o {
			u.endSession(t)
		}
	}
	u.release(o)
}

// find returns the session of a client. It makes one if needed, and returns nil if it cannot.
func (s *service) find(o *mapping, d *datagram) *session {
	u := s.u
	if !d.from.isUnicast() {
		return nil
	}
	key := sessionKey{host: o.host, remote: d.from, ours: o.ours || u.onLink(d.index)}
	t := u.sessions.all[key]
	if t == nil {
		if t = s.begin(o, key); t == nil {
			return nil
		}
	}
	// The client may have changed to another address or port of the card. Answers come from the one
	// it used last.
	t.local = d.to
	if t.up != o {
		old := t.up
		old.sessions--
		o.sessions++
		t.up = o
		if old.last == t {
			old.last = nil
		}
		u.release(old)
	}
	return t
}

func (s *service) begin(o *mapping, key sessionKey) *session {
	if !s.u.makeRoom(true) {
		return nil
	}
	t, err := s.u.newSession(o, key, inboundUnreplied)
	if err != nil {
		return nil
	}
	return t
}

// onLink reports whether an interface leads to the host. A datagram that the host sends to a
// published port cannot be returned to it with its own address as the source.
func (u *udp) onLink(index int) bool { return slices.Contains(u.links, index) }

func (u *udp) onPort(index int) bool { return slices.Contains(u.ports, index) }

// findInterfaces looks up the indexes of the configured interfaces. An interface may appear later
// than the configuration that names it.
func (u *udp) findInterfaces(conf Config) {
	u.links = u.indexes(u.links[:0], conf.Links)
	u.ports = u.indexes(u.ports[:0], conf.Ports)
}

func (u *udp) indexes(to []int, names []string) []int {
	for _, name := range names {
		if index, err := interfaceIndex(u.listeners[0], name); err == nil {
			to = append(to, index)
		}
	}
	return to
}

// interfaceIndex returns the index of an interface (SIOCGIFINDEX). fd is any socket.
func interfaceIndex(fd int, name string) (int, error) {
	r, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, r); err != nil {
		return 0, err
	}
	return int(r.Uint32()), nil
}
