package supervisor

import (
	"fmt"
	"net/netip"
	"path"
	"slices"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/hostnet/passt"
	"github.com/toe-project/toe/internal/newc"
)

// configOf is what card c is told about itself.
func configOf(c *store.Card, l store.Links, img Image) (*control.Config, error) {
	cfg := &control.Config{
		Name: c.Name, Hostname: c.Name,
		DNS: c.Spec.DNS.Servers, Search: c.Spec.DNS.Search,
		TimeServers: c.Spec.Time.Servers,
		// What is routed has the source that connections have.
		Mode: c.Spec.Offload.Mode, NAT: c.Spec.Offload.Source != spec.SourcePreserve,
		Offload:  c.Spec.Offload.Config(),
		Firmware: img.Version,
	}
	cfg.Rescue = img.Rescue
	if !c.Spec.Updates.IsZero() {
		cfg.Updates = c.Spec.Updates
	}
	if img.Slot != "" {
		cfg.HealthLimit = c.Spec.Firmware.HealthLimit
	}
	linkOf := addDevices(cfg, c, l)
	var err error
	if cfg.Publish, err = publish(&c.Spec, l, linkOf); err != nil {
		return nil, err
	}
	cfg.AuthorizedKeys = slices.Clone(c.Spec.SSH.AuthorizedKeys)
	if cfg.ZeroTrust = c.Spec.ZeroTrust; !cfg.ZeroTrust {
		login, err := c.LoginPublic()
		if err != nil {
			return nil, err
		}
		cfg.AuthorizedKeys = slices.Insert(cfg.AuthorizedKeys, 0, login)
	}
	if cfg.Services, err = services(&c.Spec, cfg); err != nil {
		return nil, err
	}
	return cfg, cfg.Validate()
}

// addDevices adds the card's links and ports to cfg, and returns the name of the link of each device.
func addDevices(cfg *control.Config, c *store.Card, l store.Links) map[string]string {
	linkOf := map[string]string{}
	for _, d := range []struct {
		dev   string
		addrs *store.LinkAddrs
	}{{store.LinkDevice, l.Link}, {store.ExecDevice, l.Exec}} {
		if d.addrs == nil {
			continue
		}
		linkOf[d.dev] = fmt.Sprintf("pci%d", len(cfg.Links))
		cfg.Links = append(cfg.Links, control.Link{
			Name: linkOf[d.dev],
			MAC:  c.MAC(d.dev).String(), Card: d.addrs.Card(), Host: d.addrs.HostAddrs(),
		})
	}
	for _, p := range c.Spec.Ports {
		port := control.Port{
			Name: p.Name, MAC: c.MAC(store.PortDevice(p.Name)).String(), MTU: p.MTU, Gateway: p.Gateway, DNS: p.DNS,
		}
		if p.Attach.Kind == spec.AttachUser && len(port.DNS) == 0 && hasDHCP(p) {
			// The same under QEMU and passt, and it works where the host's
			// resolver is one that only the host itself may ask.
			port.DNS = []netip.Addr{netip.MustParseAddr(passt.DNS)}
		}
		for _, a := range p.Addresses {
			port.Addresses = append(port.Addresses, string(a))
		}
		cfg.Ports = append(cfg.Ports, port)
	}
	return linkOf
}

func hasDHCP(p spec.Port) bool { return slices.Contains(p.Addresses, spec.AddrDHCP) }

// writeInitrd puts the card's own configuration and keys behind the firmware.
func writeInitrd(c *store.Card, img Image, cfg *control.Config) error {
	keys, err := control.LoadKeys(c.Paths.Keys())
	if err != nil {
		return err
	}
	data, err := cfg.Encode()
	if err != nil {
		return err
	}
	files := []newc.File{
		newc.Regular(control.ConfigPath, 0o600, data),
		newc.Regular(control.ImagePath, 0o644, []byte(img.Digest+"\n")),
	}
	for name, data := range keys.CardFiles() {
		files = append(files, newc.Regular(path.Join(control.KeysDir, name), 0o600, data))
	}
	return firmware.Overlay(c.Paths.Initrd(), img.Initrd, files)
}

// publish is what the card is told of the services; linkOf gives the name of
// the link of a device, empty where there is none.
func publish(s *spec.Spec, l store.Links, linkOf map[string]string) ([]control.Publish, error) {
	var out []control.Publish
	for i, p := range s.Publish {
		dev, addrs := store.LinkDevice, l.Link
		if p.In == spec.InExec {
			dev, addrs = store.ExecDevice, l.Exec
		}
		if addrs == nil {
			return nil, fmt.Errorf("publish[%d].in: %q: a card without root has no link into the host's network; "+
				"in: exec publishes what runs in toe exec", i, p.In)
		}
		out = append(out, control.Publish{
			Protocol: p.Protocol, Port: uint16(p.Port), Link: linkOf[dev], To: p.Targets(addrs.HostAddrs()),
			CardSource: p.Source == spec.SourceCard,
		})
	}
	return out, nil
}
