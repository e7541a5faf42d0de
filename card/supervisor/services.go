package supervisor

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/internal/atomicfile"
	"github.com/toe-project/toe/internal/textdiff"
	"github.com/toe-project/toe/service"
)

// services renders the services of a card. The host renders, and not the card: the card gets files,
// and no templates with what it does not need to know.
func services(s *spec.Spec, cfg *control.Config) ([]control.Service, error) {
	w := service.World{Name: cfg.Name, Ports: cfg.Ports}
	for _, l := range cfg.Links {
		for _, p := range l.Card {
			w.Link = append(w.Link, p.Addr())
		}
		w.Host = append(w.Host, l.Host...)
	}
	var out []control.Service
	for _, one := range s.Services {
		def, err := service.Open(one.Name, one.Folder)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(def.Editions, s.Firmware.Edition) {
			return nil, fmt.Errorf("service %s: firmware.edition %s does not run it; want %s",
				one.Name, s.Firmware.Edition, strings.Join(def.Editions, " or "))
		}
		rendered, err := def.Render(one.Keys, w)
		if err != nil {
			return nil, err
		}
		out = append(out, rendered)
	}
	return out, nil
}

// Services renders the services of a card that does not run, with the addresses that it had the last
// time.
func Services(c *store.Card) ([]control.Service, error) {
	var l store.Links // none before the first start
	_ = atomicfile.ReadJSON(c.Paths.Links(), &l)
	cfg := &control.Config{Name: c.Name}
	addDevices(cfg, c, l)
	return services(&c.Spec, cfg)
}

// ServiceChanges are the differences between the services of two configurations, as people read
// them: the keys that changed, and unified diffs of the files.
func ServiceChanges(from, to []control.Service) (changed []string, diff string) {
	var names []string
	for _, s := range slices.Concat(from, to) {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		old, next := serviceNamed(from, name), serviceNamed(to, name)
		if reflect.DeepEqual(old, next) {
			continue
		}
		changed = append(changed, "services."+name+": its files or commands")
		for _, file := range fileNames(old, next) {
			at := name + "/" + file
			diff += textdiff.Unified("a/"+at, "b/"+at, service.Text(old, textOf(old, file)), service.Text(next, textOf(next, file)))
		}
	}
	return changed, diff
}

// serviceNamed is empty where there is none.
func serviceNamed(list []control.Service, name string) control.Service {
	for _, s := range list {
		if s.Name == name {
			return s
		}
	}
	return control.Service{}
}

func fileNames(a, b control.Service) []string {
	var names []string
	for _, f := range slices.Concat(a.Files, b.Files) {
		names = append(names, f.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func textOf(s control.Service, name string) string {
	for _, f := range s.Files {
		if f.Name == name {
			return f.Text
		}
	}
	return ""
}

// servicePrefix begins the names of the components that are services.
const servicePrefix = "service "

// hearServices adds what the agent says of the services.
func hearServices(st *status.Status, reply *cardpb.StatusResponse) {
	for _, r := range reply.Components {
		if name, ok := strings.CutPrefix(r.Component, servicePrefix); ok {
			st.Services = append(st.Services, status.Service{Name: name, State: healthWord(r.State), Detail: r.Detail})
		}
	}
}
