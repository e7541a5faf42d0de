package supervisor

import (
	"errors"
	"strings"
	"testing"

	"github.com/toe-project/toe/card/rom/romtest"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store/storetest"
	"github.com/toe-project/toe/machine"
)

// The status has the card's disk, and says when a flush has failed.
func TestDiskInStatus(t *testing.T) {
	w := newScene()
	c := storetest.Card(t, "")
	romtest.Create(t, c.Paths, "one", machine.Fake)
	r := startParts(t, w, c, w.flashParts())
	st := r.await("health", inState(status.Healthy))
	if len(st.Disks) != 1 || st.Disks[0].Name != "flash" || st.Disks[0].Bytes != 1<<20 || st.Disks[0].Flushes != 7 {
		t.Errorf("disks %+v", st.Disks)
	}
	w.mu.Lock()
	w.fault["disk stats"] = errors.New("lost")
	w.mu.Unlock()
	st = r.await("a lost flush", inState(status.Degraded))
	if !strings.Contains(strings.Join(st.Reasons, "\n"), "the card's disk refuses writes") {
		t.Errorf("reasons %q", st.Reasons)
	}
}
