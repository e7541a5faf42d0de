package service

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/feature"
)

// keyCard is what a template finds the card under: {{.card.dir}}.
const keyCard = "card"

// World is what a template may know of the card.
type World struct {
	Name  string
	Link  []netip.Addr // the card's addresses of its links
	Host  []netip.Addr // the host's addresses of them
	Ports []control.Port
}

// words are the functions of a template.
var words = template.FuncMap{
	"join": func(sep string, list []any) string {
		var out []string
		for _, v := range list {
			out = append(out, fmt.Sprint(v))
		}
		return strings.Join(out, sep)
	},
	"bracket": func(a string) string { // an address as a URL has it
		if strings.Contains(a, ":") {
			return "[" + a + "]"
		}
		return a
	},
}

func newTemplate(name, text string) (*template.Template, error) {
	return template.New(name).Funcs(words).Option("missingkey=error").Parse(text)
}

// commands are the parts of service.yaml that are templates, too.
func (d *Definition) commands() map[string][]string {
	return map[string][]string{"check": d.Check, "reload": d.Reload, "probe": d.Probe}
}

func (d *Definition) checkTemplates() error {
	for name, text := range d.templates {
		if err := control.CheckFileName(name); err != nil {
			return err
		}
		if _, err := newTemplate(name+templateSuffix, text); err != nil {
			return err
		}
	}
	for what, words := range d.commands() {
		for _, w := range words {
			if _, err := newTemplate(what, w); err != nil {
				return err
			}
		}
	}
	return nil
}

// Problems reports what is wrong with the keys of a service in card.yaml, before anything is rendered.
// At is the path of the service, and ports are those of the card.
func (d *Definition) Problems(at string, keys map[string]any, ports []control.Port, report feature.Report) {
	wrong := false
	d.schema().check(at, orEmpty(keys), func(at, format string, args ...any) {
		wrong = true
		report(at, format, args...)
	})
	if wrong {
		return
	}
	for i, z := range listed(keys[KeyListen]) {
		if !isZone(z, ports) {
			report(fmt.Sprintf("%s.%s[%d]", at, KeyListen, i),
				"%q is no port and no address of the card; want host, any%s", z, names(ports))
		}
	}
	if _, err := d.claims(keys, nil); err != nil {
		report(at, "%v", err)
	}
}

func orEmpty(keys map[string]any) map[string]any {
	if keys == nil {
		return map[string]any{}
	}
	return keys
}

// Claims returns the ports that the service listens on.
func (d *Definition) Claims(keys map[string]any) []control.ServicePort {
	out, _ := d.claims(keys, nil)
	return out
}

func (d *Definition) claims(keys map[string]any, from []string) ([]control.ServicePort, error) {
	filled, err := d.schema().fill(orEmpty(keys), func(any) (string, error) { return "", nil })
	if err != nil {
		return nil, err
	}
	var out []control.ServicePort
	for _, c := range d.Ports {
		text, err := execute("port", c.Port, filled)
		if err != nil {
			return nil, err
		}
		if text == "" || text == "0" {
			continue // switched off
		}
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("port %q: want 1 to 65535", text)
		}
		out = append(out, control.ServicePort{Protocol: c.Protocol, Port: uint16(n), From: from})
	}
	return out, nil
}

// Render makes what the card is told. The error names the key, the file or the line of a template.
func (d *Definition) Render(keys map[string]any, w World) (control.Service, error) {
	s, err := d.render(keys, w)
	if err != nil {
		return control.Service{}, fmt.Errorf("service %s: %w", d.Name, err)
	}
	return s, nil
}

func (d *Definition) render(keys map[string]any, w World) (control.Service, error) {
	var hide []string
	real, err := d.data(keys, w, func(v any) (string, error) {
		text, err := readSecret(v)
		hide = append(hide, hidden(text)...)
		return text, err
	})
	if err != nil {
		return control.Service{}, err
	}
	shown, err := d.data(keys, w, func(v any) (string, error) {
		if v == nil {
			return "", nil
		}
		return Hidden, nil
	})
	if err != nil {
		return control.Service{}, err
	}
	// The longest first: one may be a part of another.
	slices.SortFunc(hide, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	s := control.Service{Name: d.Name, Packages: d.Packages, Unit: d.Unit, Hide: slices.Compact(hide)}
	for _, name := range slices.Sorted(maps.Keys(d.templates)) {
		text, err := execute(name+templateSuffix, d.templates[name], real)
		if err != nil {
			return s, err
		}
		without, err := execute(name+templateSuffix, d.templates[name], shown)
		if err != nil {
			return s, err
		}
		f := control.ServiceFile{Name: name, Text: text, Secret: without != text}
		if f.Secret && (name == d.Unit || name == control.UnitDropIn) {
			return s, fmt.Errorf("%s%s: it has a secret, and every user of the card can read a unit of systemd", name, templateSuffix)
		}
		if f.Secret {
			f.Owner = d.Owner
		}
		s.Files = append(s.Files, f)
	}
	for what, words := range d.commands() {
		var out []string
		for _, word := range words {
			text, err := execute(what, word, shown)
			if err != nil {
				return s, err
			}
			out = append(out, text)
		}
		switch what {
		case "check":
			s.Check = out
		case "reload":
			s.Reload = out
		case "probe":
			s.Probe = out
		}
	}
	s.Ports, err = d.claims(keys, reachedFrom(listed(real[KeyListen]), w.Ports))
	return s, err
}

// hidden returns what is left out of what people read: a secret, and each line of one that has several.
func hidden(secret string) []string {
	var out []string
	for line := range strings.Lines(secret) {
		if line = strings.TrimSpace(line); len(line) >= 4 {
			out = append(out, line)
		}
	}
	if secret != "" {
		out = append(out, secret)
	}
	return out
}

// data is what the templates of a service see: its keys, and the card.
func (d *Definition) data(keys map[string]any, w World, secret func(any) (string, error)) (map[string]any, error) {
	filled, err := d.schema().fill(orEmpty(keys), secret)
	if err != nil {
		return nil, err
	}
	out := filled.(map[string]any)
	listen, _ := out[KeyListen].([]any)
	if native, _ := out[KeyNative].(string); native != "" && !strings.HasSuffix(native, "\n") {
		out[KeyNative] = native + "\n"
	}
	ports := []any{}
	for _, p := range w.Ports {
		ports = append(ports, p.Name)
	}
	out[keyCard] = map[string]any{
		"name": w.Name, "dir": path.Join(control.ServicesDir, d.Name), "ports": ports,
		"link": addresses(w.Link), "host": addresses(w.Host), "bind": bind(listed(listen), w),
	}
	return out, nil
}

func addresses(list []netip.Addr) []any {
	out := []any{}
	for _, a := range list {
		out = append(out, a.String())
	}
	return out
}

func execute(name, text string, data any) (string, error) {
	t, err := newTemplate(name, text)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, data); err != nil {
		return "", err
	}
	return out.String(), nil
}
