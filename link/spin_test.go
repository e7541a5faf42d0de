package link

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/fakecard"
)

// A spinning pump needs no wake-up: it finds a head that was made available without
// a kick. A pump that does not spin, or has stopped spinning, needs the kick.
func TestSpin(t *testing.T) {
	for _, c := range []struct {
		spin  time.Duration
		pause time.Duration
		found bool
	}{{0, 0, false}, {time.Minute, 0, true}, {time.Minute, 300 * time.Millisecond, true}, {20 * time.Millisecond, time.Second, false}} {
		t.Run(fmt.Sprintf("%s after %s", c.spin, c.pause), func(t *testing.T) {
			b := newBareSpinning(t, c.spin)
			b.send(order{Op: opOffer})
			frame := fakecard.Frame(fakecard.UDP(cardIP, hostIP, 1, 2, 100))
			copy(b.mem[fuzzData:], frame)
			b.ready(1, 0, 1, seedDescs(fuzzGuest+fuzzData, uint64(len(frame)), 0, 0), make([]byte, 2*fuzzSize))
			b.sent(1, 2*time.Second)
			if c.spin == 0 {
				time.Sleep(50 * time.Millisecond) // until it sleeps
			}
			time.Sleep(c.pause)
			*b.u16(fuzzRing + 0x402) = 2 // one more available, and no kick
			wait := 200 * time.Millisecond
			if c.found {
				wait = 5 * time.Second
			}
			if found := b.sent(2, wait); found != c.found {
				t.Errorf("a head without a kick was found: %v, want %v", found, c.found)
			}
			unix.Write(int(b.kicks[1].Fd()), []byte{1, 0, 0, 0, 0, 0, 0, 0})
			if !b.sent(2, 5*time.Second) {
				t.Error("a head with a kick was not found")
			}
		})
	}
}

// sent waits until n packets have gone to the host.
func (b *bare) sent(n uint64, most time.Duration) bool {
	for end := time.Now().Add(most); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if b.board.stats()[0].ToHost.Packets == n {
			return true
		}
	}
	return false
}

// The setting reaches the pump.
func TestSpinIsSet(t *testing.T) {
	const spin = 70 * time.Microsecond
	told := make(chan int64, 1)
	k, err := NewKeeper(Device{Name: "test", MAC: make([]byte, 6), MTU: 1500, Files: newBareFile(t), Stream: true, Spin: spin}, Options{
		Launch: func(orders *os.File) (Process, error) {
			return puppet(orders, -1, func(_ int, o order) bool {
				var s setup
				_ = json.Unmarshal(o.Setup, &s)
				told <- s.Spin
				return true
			})
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if got := time.Duration(<-told); got != spin {
		t.Errorf("the pump was told to spin for %s, want %s", got, spin)
	}
}

// Invalid spin times are refused.
func TestSpinBounds(t *testing.T) {
	for spin, want := range map[time.Duration]bool{-1: false, 0: true, MaxSpin: true, MaxSpin + 1: false} {
		d := Device{Name: "test", MAC: make([]byte, 6), MTU: 1500, Files: newBareFile(t), Spin: spin}
		if err := d.check(); (err == nil) != want {
			t.Errorf("%s: %v", spin, err)
		}
		closeAll(d.Files)
	}
}
