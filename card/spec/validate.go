package spec

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/toe-project/toe/feature"
	"github.com/toe-project/toe/internal/arch"
)

// DefaultName is the card of commands that name none.
const DefaultName = "card0"

// Bounds of a Spec.
const (
	minMemory = 64 * MiB
	maxMemory = 1024 * GiB
	maxPorts  = 8
	maxCPUs   = 64      // as the tag of Machine.CPUs says
	minFlash  = 1 * GiB // as package flash has it
	maxFlash  = 1024 * GiB
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
	if s.Nano() {
		s.fillNano()
	}
	for i := range s.Ports {
		if p := &s.Ports[i]; p.Addresses == nil {
			p.Addresses = []PortAddr{AddrDHCP, AddrRA}
		}
	}
	if s.Machine.Arch == "" {
		s.Machine.Arch = Arch(arch.Host().Name)
	}
	feature.Fill(s)
}

// YAML is the specification normalised: defaults filled in, keys in order.
func (s Spec) YAML() ([]byte, error) { return yaml.Marshal(s) }

// portName matches the interface names that the card accepts.
var portName = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_-]{0,14}$`)

type problem struct{ path, text string }

// problems returns the mistakes that the types do not rule out.
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
	s.machineProblems(add)
	if n := s.Firmware.Flash; n < minFlash || n > maxFlash {
		add("firmware.flash", "%s: between %s and %s", n, minFlash, maxFlash)
	}
	s.nanoProblems(add)
	s.trustProblems(add)
	s.linkProblems(add)
	s.portProblems(add)
	s.offloadProblems(add)
	feature.Check("updates", s.Updates, add)
	if !s.Updates.IsZero() && s.Firmware.Edition != editionDebian {
		add("updates", "edition %s updates nothing by itself, want firmware.edition debian", s.Firmware.Edition)
	}
	for i, k := range s.SSH.AuthorizedKeys {
		if err := CheckAuthorizedKey(k); err != nil {
			add(fmt.Sprintf("ssh.authorized_keys[%d]", i), "%q: %v", k, err)
		}
	}
	for i, h := range s.Time.Servers {
		if h == "" || strings.ContainsAny(h, " \t\n/") {
			add(fmt.Sprintf("time.servers[%d]", i), "%q: want a host name or address", h)
		}
	}
	return out
}

// trustProblems rejects a card without an administrator.
func (s *Spec) trustProblems(add feature.Report) {
	switch {
	case !s.ZeroTrust:
	case s.Firmware.Edition != "debian":
		add("zero_trust", "edition %s keeps nothing; want firmware: {edition: debian}", s.Firmware.Edition)
	case len(s.SSH.AuthorizedKeys) == 0:
		add("zero_trust", "no key could log in: this host's may not; want the administrators' in ssh.authorized_keys")
	}
}

func (s *Spec) machineProblems(add feature.Report) {
	m := s.Machine
	if m.Memory < minMemory || m.Memory > maxMemory {
		add("machine.memory", "%s: between %s and %s", m.Memory, minMemory, maxMemory)
	}
	if _, err := arch.Find(string(m.Arch)); err != nil {
		add("machine.arch", "%v", err)
		return
	}
	a := s.Row()
	if most := Memory(a.MaxMemory); m.Memory > most && m.Memory <= maxMemory {
		add("machine.memory", "%s: the board of %s takes %s at most", m.Memory, a.Name, most)
	}
	if m.CPUs > a.MaxCPUs && m.CPUs <= maxCPUs {
		add("machine.cpus", "%d: the board of %s takes %d at most", m.CPUs, a.Name, a.MaxCPUs)
	}
	if (m.Kind == "kvm" || m.Kind == "uml") && !a.IsHost() && !s.Nano() {
		add("machine.kind", "%q: runs only cards of the host's architecture, %s, and machine.arch is %s; want tcg or auto",
			m.Kind, arch.Host().Name, a.Name)
	}
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
		add(path, "%q: wrong address family", p)
	case p.Bits() != bits:
		add(path, "%q: want a /%d: a link has two addresses", p, bits)
	case p.Masked().Addr() != p.Addr():
		add(path, "%q: want an even first address: %q", p, p.Masked())
	case p.Addr().IsLoopback() || p.Addr().IsMulticast() || p.Addr().IsUnspecified():
		add(path, "%q: want a unicast address", p)
	}
}

func (s *Spec) portProblems(add feature.Report) {
	if len(s.Ports) > maxPorts {
		add("ports", "%d ports: want %d at most", len(s.Ports), maxPorts)
	}
	names, users := map[string]bool{}, map[string]string{}
	for i, p := range s.Ports {
		at := fmt.Sprintf("ports[%d]", i)
		feature.Check(at, p, add)
		switch {
		case p.Name == "":
			add(at, "want a name, such as name: wan")
		case !portName.MatchString(p.Name):
			add(at+".name", "%q: want a letter and up to 14 letters, digits, dashes and underscores", p.Name)
		case p.Name == "lo" || p.Name == "all" || p.Name == "default" || strings.HasPrefix(p.Name, "pci"):
			add(at+".name", "%q: the card has an interface of this name; want another, such as wan or lan", p.Name)
		case names[p.Name]:
			add(at+".name", "%q: duplicate name", p.Name)
		}
		names[p.Name] = true
		if to := p.Attach.String(); p.Attach.Kind != AttachUser && p.Attach.Kind != AttachBridge && p.Attach.Kind != AttachMacvtap {
			if other, taken := users[to]; taken {
				add(at+".attach", "%q: used by port %q", to, other)
			}
			users[to] = p.Name
		}
	}
}

// CheckName returns why name cannot be a card's. A card's name is a host name, a
// folder and a part of a socket's path, hence short.
func CheckName(name string) error {
	const most = 32
	ok := name != "" && len(name) <= most && name[0] != '-' && name[len(name)-1] != '-'
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		ok = c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-'
	}
	if !ok {
		return fmt.Errorf("card name %q: want 1 to %d lower-case letters, digits and dashes, no dash at either end", name, most)
	}
	return nil
}

// CheckInterface returns why name cannot be an interface's (dev_valid_name of the
// kernel: at most 15 bytes, no slash, colon or space).
func CheckInterface(name string) error {
	if name == "" || len(name) > 15 || name == "." || name == ".." || strings.ContainsAny(name, "/:% \t\n\x00") {
		return fmt.Errorf("interface name %q: want 1 to 15 characters, no slash, colon, percent or space", name)
	}
	for _, r := range name {
		if r < 0x21 || r == 0x7f {
			return fmt.Errorf("interface name %q: has a control character", name)
		}
	}
	return nil
}

// WithoutRoot returns an error that names the key that needs a link into the host's
// network, which a card without root does not have.
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
	return fmt.Errorf("%s: needs root; without it a card has no link into the host's network, and `toe exec` runs the programs that use the card", what)
}
