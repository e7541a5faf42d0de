package spec

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Diff sorts the differences between two specifications into those that a
// running card can take and those that need it to be started again, one line
// each.
func Diff(from, to Spec) (live, restart []string) {
	add := func(list *[]string, key string, a, b any) {
		if reflect.DeepEqual(a, b) {
			return
		}
		if a, b := show(a), show(b); a != b { // an empty list is as good as none
			*list = append(*list, fmt.Sprintf("%s: %s -> %s", key, a, b))
		}
	}
	add(&restart, "machine", from.Machine, to.Machine)
	limit := to.Firmware.HealthLimit // the next trial has it: each start gets its configuration anew
	add(&live, "firmware.health_limit", from.Firmware.HealthLimit, limit)
	from.Firmware.HealthLimit = limit
	add(&restart, "firmware", from.Firmware, to.Firmware)
	add(&restart, "zero_trust", from.ZeroTrust, to.ZeroTrust)
	from.Link.Exec, to.Link.Exec = boolPointer(from.Link.WantExec()), boolPointer(to.Link.WantExec())
	add(&restart, "link", from.Link, to.Link)
	add(&live, "offload", from.Offload, to.Offload)
	add(&live, "publish", from.Publish, to.Publish)
	add(&live, "dns", from.DNS, to.DNS)
	add(&live, "time", from.Time, to.Time)
	add(&live, "updates", from.Updates, to.Updates)
	add(&live, "ssh", from.SSH, to.SSH)
	for _, name := range serviceNames(from, to) {
		a, b := serviceMap(from, name), serviceMap(to, name)
		if show(a) != show(b) {
			live = append(live, fmt.Sprintf("services.%s: %s -> %s", name, orNone(a), orNone(b)))
		}
	}
	if len(from.Ports) != len(to.Ports) {
		restart = append(restart, fmt.Sprintf("ports: %d -> %d", len(from.Ports), len(to.Ports)))
		return live, restart
	}
	for i, a := range from.Ports {
		b := to.Ports[i]
		key := "ports[" + a.Name + "]"
		add(&restart, key+".name", a.Name, b.Name)
		add(&restart, key+".attach", a.Attach, b.Attach)
		add(&restart, key+".mtu", a.MTU, b.MTU)
		add(&live, key+".addresses", a.Addresses, b.Addresses)
		add(&live, key+".gateway", a.Gateway, b.Gateway)
		add(&live, key+".dns", a.DNS, b.DNS)
	}
	return live, restart
}

// serviceNames are those of both, sorted.
func serviceNames(a, b Spec) []string {
	var names []string
	for _, s := range slices.Concat(a.Services, b.Services) {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// serviceMap is nil where s has no service of this name.
func serviceMap(s Spec, name string) map[string]any {
	if one, ok := s.Services.Find(name); ok {
		return one.Map()
	}
	return nil
}

func orNone(m map[string]any) string {
	if m == nil {
		return "none"
	}
	return show(m)
}

// ChangedKeys returns the keys of changes, without the values.
func ChangedKeys(changes []string) []string {
	var keys []string
	for _, c := range changes {
		key, _, _ := strings.Cut(c, ": ")
		keys = append(keys, key)
	}
	return keys
}

func boolPointer(v bool) *bool { return &v }

// show returns a value on one line, as yaml writes it.
func show(v any) string {
	if rv := reflect.ValueOf(v); rv.Kind() == reflect.Slice && rv.IsNil() {
		return "[]"
	}
	text, err := flowYAML(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return text
}
