package link

import (
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/fakecard"
)

// A pump that could not be confined reports that, moves nothing, and ends when its
// keeper hangs up.
func TestNotConfined(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[1])
	opts := Options{Launch: func(orders *os.File) (Process, error) {
		return confinedHere(orders, func() (string, error) { return "", errors.New("no such filter") })
	}}
	within(t, 2*time.Second, "NewKeeper", func() {
		_, err = NewKeeper(Device{
			Name: "test", MAC: net.HardwareAddr{2, 1, 2, 3, 4, 5}, MTU: 65535, Stream: true,
			Files: []*os.File{os.NewFile(uintptr(fds[0]), "near")},
		}, opts)
	})
	if err == nil || !strings.Contains(err.Error(), "no such filter") {
		t.Errorf("error %v", err)
	}
}

// What a pump's confinement lacks is reported once, for any number of pumps.
func TestConfinedLess(t *testing.T) {
	const lacks = "no fence"
	w := newLaunched(t, func(o *Options) {
		o.Launch = func(orders *os.File) (Process, error) {
			return confinedHere(orders, func() (string, error) { return lacks, nil })
		}
	})
	w.hears(t, "confined less than it could be: "+lacks)
	w.kill()
	w.hears(t, "replaced by")
	if n := strings.Count(strings.Join(w.news(), "\n"), lacks); n != 1 {
		t.Errorf("told %d times: %q", n, w.news())
	}
}

// Disabling a disabled pair reports no event.
func TestOffTwice(t *testing.T) {
	w := newWorld(t, worldOptions{card: fakecard.Options{Pairs: 2}})
	for _, on := range []bool{false, false, true, true, false} {
		if err := w.card.Enable(2, on); err != nil {
			t.Fatal(err)
		}
	}
	if e := w.news(); len(e) > 0 {
		t.Errorf("events %q", e)
	}
}
