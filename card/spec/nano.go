package spec

import (
	"fmt"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/feature"
	"github.com/toe-project/toe/internal/arch"
)

// editionNano is a kernel and one small program, for a CPU without MMU.
const editionNano = "nano"

// editionDebian is a whole Debian on a disk.
const editionDebian = "debian"

// Nano reports whether the card has the nano edition.
func (s *Spec) Nano() bool { return s.Firmware.Edition == editionNano }

// Row returns what is known of the card's board.
func (s *Spec) Row() arch.Arch {
	if s.Nano() {
		return arch.NoMMU
	}
	return s.Machine.Arch.Row()
}

// fillNano fills in the defaults that differ from those of other editions.
func (s *Spec) fillNano() {
	if s.Machine.Arch == "" {
		s.Machine.Arch = Arch(arch.NoMMU.Name)
	}
	if s.Offload.Mode == "" {
		s.Offload.Mode = control.ModeRouter
	}
	for i := range s.Ports {
		if p := &s.Ports[i]; p.Addresses == nil && p.Attach.String() == string(AttachUser) {
			p.Addresses = []PortAddr{AddrDHCP}
		}
	}
}

// nanoProblems names the keys that the nano edition cannot act on.
func (s *Spec) nanoProblems(add feature.Report) {
	if !s.Nano() {
		return
	}
	refuse := func(path, format string, args ...any) {
		add(path, format+"; firmware.edition micro can", args...)
	}
	if s.Offload.Mode != control.ModeRouter {
		refuse("offload.mode", "%q: the nano edition has no endpoint mode, want %s", s.Offload.Mode, control.ModeRouter)
	}
	if m := s.Machine; m.Kind != "auto" && m.Kind != "tcg" {
		refuse("machine.kind", "%q: only QEMU's translator has a CPU without MMU, want tcg or auto", m.Kind)
	} else if string(m.Arch) != arch.NoMMU.Name {
		refuse("machine.arch", "%q: the nano edition is for %s", m.Arch, arch.NoMMU.Name)
	}
	if s.Link.Queues > 1 {
		refuse("link.queues", "%d: the nano edition has one CPU, want 1", s.Link.Queues)
	}
	if len(s.DNS.Servers)+len(s.DNS.Search) > 0 {
		refuse("dns", "the nano edition has no resolver")
	}
	if len(s.Time.Servers) > 0 {
		refuse("time.servers", "the nano edition has no clock that it sets")
	}
	for i, p := range s.Ports {
		s.nanoPort(feature.Report(refuse), i, p)
	}
}

func (s *Spec) nanoPort(refuse feature.Report, i int, p Port) {
	at := fmt.Sprintf("ports[%d]", i)
	for _, a := range p.Addresses {
		switch {
		case a == AddrRA:
			refuse(at+".addresses", "%q: the nano edition takes no router advertisements, want an address such as 192.0.2.7/24", a)
		case a == AddrDHCP && p.Attach.String() != string(AttachUser):
			refuse(at+".addresses", "%q: the nano edition has no DHCP, want an address such as 192.0.2.7/24, or attach: user", a)
		}
	}
	if len(p.DNS) > 0 {
		refuse(at+".dns", "the nano edition has no resolver")
	}
}
