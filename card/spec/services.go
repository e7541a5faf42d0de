package spec

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/feature"
	"github.com/toe-project/toe/service"
)

// Services are the programs that the card runs, sorted by name.
type Services []Service

// Service is one of them. What its keys may be is in its folder (package service).
type Service struct {
	Name   string
	Folder string         // absolute; empty for one of the catalogue
	Keys   map[string]any // as in card.yaml: strings, numbers, booleans, lists, and maps of those
	At     string         // FILE:LINE in card.yaml
}

// IsZero makes yaml leave an empty list out.
func (s Services) IsZero() bool { return len(s) == 0 }

// MarshalYAML is the inverse of the decoder's services.
func (s Services) MarshalYAML() (any, error) {
	out := map[string]map[string]any{}
	for _, one := range s {
		out[one.Name] = one.Map()
	}
	return out, nil
}

// Map returns the keys of a service as card.yaml has them.
func (s Service) Map() map[string]any {
	keys := map[string]any{}
	maps.Copy(keys, s.Keys)
	if s.Folder != "" {
		keys[service.KeyFolder] = s.Folder
	}
	return keys
}

// Find returns the service of this name.
func (s Services) Find(name string) (Service, bool) {
	i := slices.IndexFunc(s, func(one Service) bool { return one.Name == name })
	if i < 0 {
		return Service{}, false
	}
	return s[i], true
}

// services reads the value of the key services.
func (d *decoder) services(path string, n *yaml.Node) Services {
	if n.Kind != yaml.MappingNode {
		d.fail(path, n.Line, "want the names of services, each with its keys, not %s", kindName(n))
		return nil
	}
	var out Services
	for name, at := range d.pairs(path, n) {
		line := d.lines[join(path, name)]
		s := Service{Name: name, At: d.file + ":" + strconv.Itoa(line)}
		if err := control.CheckServiceName(name); err != nil {
			d.fail(path, line, "%v", err)
			continue
		}
		switch keys := d.plain(join(path, name), at).(type) {
		case nil:
		case map[string]any:
			s.Keys = keys
		default:
			d.fail(join(path, name), at.Line, "want keys and values, not %s", kindName(at))
		}
		if folder, given := s.Keys[service.KeyFolder]; given {
			delete(s.Keys, service.KeyFolder)
			s.Folder, _ = folder.(string)
			if s.Folder == "" {
				d.fail(join(path, name)+"."+service.KeyFolder, at.Line, "%v: want the path of a folder with %s", folder, service.FileName)
			}
		}
		if len(s.Keys) == 0 {
			s.Keys = nil
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Service) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// pairs yields the keys of a mapping with their values, and remembers their lines.
func (d *decoder) pairs(path string, n *yaml.Node) map[string]*yaml.Node {
	out := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		if _, twice := out[key.Value]; twice {
			d.fail(path, key.Line, "duplicate key %q", key.Value)
		}
		out[key.Value] = val
		d.lines[join(path, key.Value)] = key.Line
	}
	return out
}

// plain returns a node as a string, an int, a bool, a list or a map of those, or nil.
func (d *decoder) plain(path string, n *yaml.Node) any {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		d.fail(path, n.Line, "anchors and aliases are not supported; write the value")
		return nil
	}
	switch n.Kind {
	case yaml.SequenceNode:
		out := []any{}
		for i, item := range n.Content {
			at := fmt.Sprintf("%s[%d]", path, i)
			d.lines[at] = item.Line
			out = append(out, d.plain(at, item))
		}
		return out
	case yaml.MappingNode:
		out := map[string]any{}
		for key, val := range d.pairs(path, n) {
			if v := d.plain(join(path, key), val); v != nil {
				out[key] = v
			}
		}
		return out
	}
	switch n.Tag {
	case "!!null":
		return nil
	case "!!bool":
		return n.Value == "true" || n.Value == "True" || n.Value == "TRUE"
	case "!!int":
		if i, err := strconv.Atoi(n.Value); err == nil {
			return i
		}
	}
	return n.Value
}

// resolveServices makes the paths of services absolute: base is the folder of card.yaml. A name that
// the catalogue does not have is a folder in services/ beside card.yaml.
func (s *Spec) resolveServices(base string) {
	for i := range s.Services {
		one := &s.Services[i]
		beside := filepath.Join(base, "services", one.Name)
		if one.Folder == "" && !slices.Contains(service.Names(), one.Name) {
			if _, err := os.Stat(filepath.Join(beside, service.FileName)); err == nil {
				one.Folder = beside
			}
		}
		if one.Folder != "" && !filepath.IsAbs(one.Folder) {
			one.Folder = filepath.Join(base, one.Folder)
		}
		for _, v := range one.Keys {
			service.Absolute(v, base)
		}
	}
}

// serviceProblems checks the services against their folders, and against each other. It reads files
// besides card.yaml, so it is no part of problems: a card whose folder is gone can be taken down.
func (s *Spec) serviceProblems(add feature.Report) {
	if len(s.Services) > control.MaxServices {
		add("services", "%d services: want %d at most", len(s.Services), control.MaxServices)
		return
	}
	taken, units := map[string]string{}, map[string]string{}
	for i, p := range s.Publish {
		taken[control.ServicePort{Protocol: p.Protocol, Port: uint16(p.Port)}.String()] = fmt.Sprintf("publish[%d]", i)
	}
	ports := s.controlPorts()
	for _, one := range s.Services {
		at := "services." + one.Name
		def, err := service.Open(one.Name, one.Folder)
		if err != nil {
			add(at, "%v", err)
			continue
		}
		if !slices.Contains(def.Editions, s.Firmware.Edition) {
			add(at, "firmware.edition %s does not run it; want %s", s.Firmware.Edition, strings.Join(def.Editions, " or "))
		}
		def.Problems(at, one.Keys, ports, add)
		if other, ok := units[def.Unit]; ok {
			add(at, "its unit %s is that of service %s", def.Unit, other)
		}
		units[def.Unit] = one.Name
		for _, p := range def.Claims(one.Keys) {
			if other, ok := taken[p.String()]; ok {
				add(at, "%s is taken by %s", p, other)
			}
			if what := control.CardService(p.Protocol, p.Port, s.Offload.MDNS); what != "" && what != "DNS" {
				add(at, "%s is the card's own %s; want another port", p, what)
			}
			taken[p.String()] = at
		}
	}
}

// controlPorts are the ports as far as card.yaml alone decides them.
func (s *Spec) controlPorts() []control.Port {
	var out []control.Port
	for _, p := range s.Ports {
		c := control.Port{Name: p.Name}
		for _, a := range p.Addresses {
			c.Addresses = append(c.Addresses, string(a))
		}
		out = append(out, c)
	}
	return out
}
