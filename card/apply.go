package card

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/toe-project/toe/control/cardpb"
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
	add(&restart, "firmware", from.Firmware, to.Firmware)
	from.Link.Exec, to.Link.Exec = boolPointer(from.Link.WantExec()), boolPointer(to.Link.WantExec())
	add(&restart, "link", from.Link, to.Link)
	add(&live, "offload", from.Offload, to.Offload)
	add(&live, "publish", from.Publish, to.Publish)
	add(&live, "dns", from.DNS, to.DNS)
	add(&live, "time", from.Time, to.Time)
	add(&live, "ssh", from.SSH, to.SSH)
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

// keysOfChanges leaves out what the values were and are.
func keysOfChanges(changes []string) []string {
	var keys []string
	for _, c := range changes {
		key, _, _ := strings.Cut(c, ": ")
		keys = append(keys, key)
	}
	return keys
}

func boolPointer(v bool) *bool { return &v }

// show is a value on one line, as yaml has it.
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

// SetSpec replaces the specification of a card that is not running.
func (c *Card) SetSpec(spec Spec) error {
	c.Spec = c.Fill(spec)
	return c.saveSpec()
}

// Applied is the answer to a change of a running card.
type Applied struct {
	Changes []string `json:"changes"`
}

func (s *Supervisor) serveApply(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxSpec))
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	spec, err := Parse("card.yaml", data)
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 30*time.Second)
	defer cancel()
	changes, err := s.apply(ctx, spec)
	if err != nil {
		refuse(w, http.StatusConflict, err)
		return
	}
	answer(w, http.StatusOK, Applied{changes})
}

// apply gives the running card a new specification. Disk is written after
// the card has agreed, so a refusal leaves everything as it was.
func (s *Supervisor) apply(ctx context.Context, spec Spec) ([]string, error) {
	s.applying.Lock()
	defer s.applying.Unlock()
	agent, err := s.client()
	if err != nil {
		return nil, err
	}
	spec = s.card.Fill(spec)
	live, restart := Diff(s.card.Spec, spec)
	if len(restart) > 0 {
		return nil, fmt.Errorf("needs the card to be started again: %s", restart[0])
	}
	if len(live) == 0 {
		return []string{}, nil
	}
	next := *s.card
	next.Spec = spec
	cfg, err := next.config(s.given, s.image)
	if err != nil {
		return nil, err
	}
	data, err := cfg.Encode()
	if err != nil {
		return nil, err
	}
	if _, err := agent.Apply(ctx, &cardpb.ApplyRequest{Config: data}); err != nil {
		return nil, fmt.Errorf("the card refuses: %w", err)
	}
	if err := next.saveSpec(); err != nil {
		return nil, err
	}
	// What the agent said last is of before: who asks for the status next
	// hears of the change.
	s.change(func() { s.card.Spec, s.config, s.replied = spec, cfg, time.Time{} })
	s.steer(ctx)
	s.event("configuration changed: %s", strings.Join(keysOfChanges(live), ", "))
	return live, nil
}
