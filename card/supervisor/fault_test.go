package supervisor

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/card/store/storetest"
	"github.com/toe-project/toe/machine"
)

// A port that cannot be opened again at once (no descriptors, a slow passt) is
// tried again at each start of the machine, and no life runs without it.
func TestPortIsOpenedAgainUntilItWorks(t *testing.T) {
	for _, step := range []string{"port", "keeper"} {
		t.Run(step, func(t *testing.T) {
			w := newScene()
			r := startCard(t, w, storetest.Card(t, "ports: [{name: wan, attach: 'tap:t0'}]\n"))
			r.await("health", inState(status.Healthy))
			w.ends <- fmt.Errorf("the other end is gone")
			r.await("word of it", inState(status.Degraded))
			w.fails(step, unix.EMFILE)
			w.machine.Instances()[0].End(machine.Exit{Cause: machine.Crashed})
			st := r.await("three tries", func(st status.Status) bool { return st.Restarts >= 3 })
			if st.State == status.Healthy || !strings.Contains(strings.Join(st.Reasons, " "), unix.EMFILE.Error()) {
				t.Errorf("state %s %q while the port cannot be opened", st.State, st.Reasons)
			}
			w.fails(step, nil)
			r.await("health", func(st status.Status) bool { return st.State == status.Healthy && len(st.Reasons) == 0 })
			for _, name := range []string{"port", "keeper port-wan"} {
				if n := w.isOpen(name); n != 1 {
					t.Errorf("%s: %d are open, want 1", name, n)
				}
			}
			r.stop()
			_ = r.wait()
			r.checkGone(t, status.Stopped, "")
		})
	}
}

// An apply that is under way when the card is taken down is waited for, and
// changes nothing of the host after that.
func TestDownWaitsForAnApply(t *testing.T) {
	w := newScene()
	r := startCard(t, w, storetest.Card(t, ""))
	r.await("health", inState(status.Healthy))
	began, release := make(chan struct{}), make(chan struct{})
	w.agent.mu.Lock()
	w.agent.apply = func() { close(began); <-release }
	w.agent.mu.Unlock()
	want, err := spec.Parse("f", []byte("publish: [{port: 80}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if !store.Privileged() {
		want.Publish[0].In = spec.InExec
	}
	go func() { _, _ = client.New(r.c).Apply(t.Context(), want) }()
	<-began
	r.stop()
	select {
	case err := <-r.ended:
		r.ended <- err
		t.Error("the supervisor has ended while an apply is under way")
	case <-time.After(time.Second): // the rest of the taking down needs less
	}
	close(release)
	_ = r.wait()
	before := len(w.steps())
	time.Sleep(100 * time.Millisecond)
	if late := w.steps()[before:]; len(late) > 0 {
		t.Errorf("after the end: %q", late)
	}
	r.checkGone(t, status.Stopped, "")
}

// The card's side decides how often its machine dials a socket. It must decide
// neither how often the host syncs its disk nor what is left of the history.
func TestEventsOfADeviceAreHeldBack(t *testing.T) {
	w := newScene()
	r := startCard(t, w, storetest.Card(t, ""))
	st := r.await("health", inState(status.Healthy))
	if !strings.Contains(told(st), "ready on") {
		t.Fatalf("history: %s", told(st))
	}
	written := countRenames(t, filepath.Dir(r.c.Paths.Last()))
	w.mu.Lock()
	tell := w.event
	w.mu.Unlock()
	began := time.Now()
	for i := range 1000 {
		tell(fmt.Sprintf("front end %d has connected", i))
	}
	if n, most := written(), 3+int(time.Since(began)/time.Second); n > most {
		t.Errorf("%d events wrote last.json %d times, want %d at most", 1000, n, most)
	}
	st = r.await("status", inState(status.Healthy))
	if !strings.Contains(told(st), "ready on") {
		t.Errorf("the host's own events are gone: %s", told(st))
	}
	r.stop()
	_ = r.wait()
	st, err := client.Status(t.Context(), r.c)
	if err != nil || !strings.Contains(told(st), "ready on") || !strings.Contains(told(st), "more events") {
		t.Errorf("afterwards (%v): %s", err, told(st))
	}
}

// A card that reboots for days leaves room in the history for the host's events,
// and for those of other devices.
func TestRebootsLeaveRoom(t *testing.T) {
	h := newHistory()
	h.add(status.Event{Text: "configuration changed"})
	h.add(status.Event{Device: "port-wan", Text: "port-wan: passt has ended"})
	for range 10 * maxHistory {
		h.add(status.Event{Device: machineDevice, Text: "machine: the card rebooted"})
		h.add(status.Event{Device: machineDevice, Text: "machine: ready"})
	}
	if len(h.events) != maxDeviceHistory+1 {
		t.Errorf("%d events, want %d", len(h.events), maxDeviceHistory+1)
	}
	for i, want := range []string{"configuration changed", "port-wan: passt has ended"} {
		if h.events[i].Text != want {
			t.Errorf("event %d is %q, want %q", i, h.events[i].Text, want)
		}
	}
}

// A machine's events are the card's doing: they are counted as a device's.
func TestMachineEventsAreTheCards(t *testing.T) {
	w := newScene()
	r := startCard(t, w, storetest.Card(t, ""))
	st := r.await("health", inState(status.Healthy))
	for _, e := range st.History {
		if strings.Contains(e.Text, "ready on") && e.Device != machineDevice {
			t.Errorf("event %q of device %q, want %q", e.Text, e.Device, machineDevice)
		}
	}
	r.stop()
	_ = r.wait()
}

// Events of the host's own do not sync the disk each, either.
func TestLastIsWrittenOnceASecond(t *testing.T) {
	w := newScene()
	r := startCard(t, w, storetest.Card(t, ""))
	r.await("health", inState(status.Healthy))
	written := countRenames(t, filepath.Dir(r.c.Paths.Last()))
	began := time.Now()
	for i := range 50 {
		r.s.board.event("event %d", i)
		time.Sleep(4 * time.Millisecond) // more than a write takes
	}
	if n, most := written(), 3+int(time.Since(began)/time.Second); n > most {
		t.Errorf("50 events wrote last.json %d times, want %d at most", n, most)
	}
}

// countRenames counts the files that are replaced in dir from now on. The files
// that they are written to are watched, too: inotify merges equal events in a row.
func countRenames(t *testing.T, dir string) func() int {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		t.Fatal(err)
	}
	return func() (n int) {
		buf := make([]byte, 1<<20)
		got, _ := unix.Read(fd, buf)
		for off := 0; off+unix.SizeofInotifyEvent <= got; {
			e := (*unix.InotifyEvent)(unsafe.Pointer(&buf[off]))
			if e.Mask&unix.IN_MOVED_TO != 0 {
				n++
			}
			off += unix.SizeofInotifyEvent + int(e.Len)
		}
		return n
	}
}
