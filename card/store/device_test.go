package store

import (
	"testing"
)

// Cards of one name may meet on one network: those of two users, as of two
// hosts (internal/hostid).
func TestMAC(t *testing.T) {
	card := func(state, name string) *Card { return &Card{Name: name, Dirs: Dirs{State: state}} }
	a := card("/a", "card0").MAC("port-wan")
	if a[0] != 0x02 {
		t.Errorf("%s: want a unicast address, locally administered", a)
	}
	if again := card("/a", "card0").MAC("port-wan"); again.String() != a.String() {
		t.Errorf("%s, then %s: want the same at every start", a, again)
	}
	for what, other := range map[string]string{
		"another user": card("/b", "card0").MAC("port-wan").String(),
		"another card": card("/a", "card1").MAC("port-wan").String(),
		"another port": card("/a", "card0").MAC("port-lan").String(),
	} {
		if other == a.String() {
			t.Errorf("%s has the same address, %s", what, a)
		}
	}
}
