package spec

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/toe-project/toe/feature"
)

// DefaultName is the card that commands mean when none is named.
const DefaultName = "card0"

// Bounds of a Spec.
const (
	minMemory = 64 * MiB
	maxMemory = 1024 * GiB
	maxPorts  = 8
)

// Default is what an empty card.yaml means.
func Default(name string) Spec {
	s := Spec{Name: name}
	s.fillDefaults()
	return s
}

func (s *Spec) fillDefaults() {
	if s.Ports == nil {
		s.Ports = []Port{{Name: "wan"}}
	}
	for i := range s.Ports {
		if p := &s.Ports[i]; p.Addresses == nil {
			p.Addresses = []PortAddr{AddrDHCP, AddrRA}
		}
	}
	feature.Fill(s)
}

// YAML is the specification normalised: defaults filled in, keys in order.
func (s Spec) YAML() ([]byte, error) { return yaml.Marshal(s) }

// portName is what the card takes as the name of an interface.
var portName = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_-]{0,14}$`)

type problem struct{ path, text string }

// problems is what the types alone do not rule out.
func (s *Spec) problems() []problem {
	var out []problem
	add := func(path, format string, args ...any) {
		out = append(out, problem{path, fmt.Sprintf(format, args...)})
	}
	if s.Name != "" {
		if err := CheckName(s.Name); err != nil {
			add("name", "%v", err)
		}
	}
	feature.Check("machine", s.Machine, add)
	feature.Check("firmware", s.Firmware, add)
	feature.Check("link", s.Link, add)
	if m := s.Machine.Memory; m < minMemory || m > maxMemory {
		add("machine.memory", "%s: between %s and %s", m, minMemory, maxMemory)
	}
	s.linkProblems(add)
	s.portProblems(add)
	s.offloadProblems(add)
	for i, k := range s.SSH.AuthorizedKeys {
		if err := CheckAuthorizedKey(k); err != nil {
			add(fmt.Sprintf("ssh.authorized_keys[%d]", i), "%q: %v", k, err)
		}
	}
	for i, h := range s.Time.Servers {
		if h == "" || strings.ContainsAny(h, " \t\n/") {
			add(fmt.Sprintf("time.servers[%d]", i), "%q: not a host name or address", h)
		}
	}
	return out
}

func (s *Spec) linkProblems(add feature.Report) {
	if s.Link.Interface != "" {
		if err := CheckInterface(s.Link.Interface); err != nil {
			add("link.interface", "%v", err)
		}
	}
	checkLinkPrefix("link.ipv4", s.Link.IPv4, 31, netip.Addr.Is4, add)
	checkLinkPrefix("link.ipv6", s.Link.IPv6, 127, netip.Addr.Is6, add)
}

func checkLinkPrefix(path string, p Prefix, bits int, family func(netip.Addr) bool, add feature.Report) {
	if p.IsZero() {
		return
	}
	switch {
	case !family(p.Addr()) || p.Addr().Is4In6():
		add(path, "%q: of the other family", p)
	case p.Bits() != bits:
		add(path, "%q: a link is two addresses: a /%d", p, bits)
	case p.Masked().Addr() != p.Addr():
		add(path, "%q: starts at an even address: %q", p, p.Masked())
	case p.Addr().IsLoopback() || p.Addr().IsMulticast() || p.Addr().IsUnspecified():
		add(path, "%q: not an address for a link", p)
	}
}

func (s *Spec) portProblems(add feature.Report) {
	if len(s.Ports) > maxPorts {
		add("ports", "%d ports: at most %d", len(s.Ports), maxPorts)
	}
	names, users := map[string]bool{}, map[string]string{}
	for i, p := range s.Ports {
		at := fmt.Sprintf("ports[%d]", i)
		feature.Check(at, p, add)
		switch {
		case p.Name == "":
			add(at, "a port needs a name, such as wan")
		case !portName.MatchString(p.Name):
			add(at+".name", "%q: a letter and up to 14 letters, digits, dashes and underscores", p.Name)
		case p.Name == "lo" || p.Name == "all" || p.Name == "default" || strings.HasPrefix(p.Name, "pci"):
			add(at+".name", "%q: the card has an interface of that name already; such as wan or lan", p.Name)
		case names[p.Name]:
			add(at+".name", "%q: two ports of the same name", p.Name)
		}
		names[p.Name] = true
		if to := p.Attach.String(); p.Attach.Kind != AttachUser && p.Attach.Kind != AttachBridge && p.Attach.Kind != AttachMacvtap {
			if other, taken := users[to]; taken {
				add(at+".attach", "%q: port %q is there already", to, other)
			}
			users[to] = p.Name
		}
	}
}

// CheckName says why name cannot be a card's. A card's name is a host name, a
// folder and part of a socket's path, hence short.
func CheckName(name string) error {
	const most = 32
	ok := name != "" && len(name) <= most && name[0] != '-' && name[len(name)-1] != '-'
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		ok = c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-'
	}
	if !ok {
		return fmt.Errorf("card name %q: 1 to %d lower-case letters, digits and dashes, no dash at either end", name, most)
	}
	return nil
}

// CheckInterface says why name cannot be an interface's (dev_valid_name of the
// kernel: at most 15 bytes, no slash, colon or space).
func CheckInterface(name string) error {
	if name == "" || len(name) > 15 || name == "." || name == ".." || strings.ContainsAny(name, "/:% \t\n\x00") {
		return fmt.Errorf("interface name %q: 1 to 15 characters, no slash, colon, percent or space", name)
	}
	for _, r := range name {
		if r < 0x21 || r == 0x7f {
			return fmt.Errorf("interface name %q: has a control character", name)
		}
	}
	return nil
}

// WithoutRoot says which keys mean nothing to a card that has no link into the
// host's own network.
func (s *Spec) WithoutRoot() error {
	what := ""
	switch {
	case s.Link.DefaultRoute:
		what = "link.default_route: true"
	case s.Link.Interface != "":
		what = "link.interface: " + s.Link.Interface
	case !s.Link.WantExec():
		what = "link.exec: false"
	default:
		return nil
	}
	return fmt.Errorf("%s: needs root; without it a card has no link into the host's network, and `toe exec` runs what shall use it", what)
}
