package supervisor

import (
	"testing"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/hostnet"
)

// A host without a default route is the reason that is told, not what a DHCP
// client on the card sees of it.
func TestWhatTheHostKnowsIsTold(t *testing.T) {
	const noRoute = "the host has no default route"
	att := &hostnet.Attachment{Waits: func() string { return noRoute }}
	w := &world{ports: []*device{{port: spec.Port{Name: "wan"}, Device: Device{Att: att}}, {port: spec.Port{Name: "lan"}}}}
	for component, want := range map[string]string{"port wan": noRoute, "port lan": "no DHCP offer", "dns": "no DHCP offer"} {
		if got := w.clearer(component, "no DHCP offer"); got != want {
			t.Errorf("%s: %q, want %q", component, got, want)
		}
	}
}
