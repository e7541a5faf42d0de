package e2e

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/toe-project/toe/card/status"
)

// program is a client that runs when its server or card dies.
type program struct {
	net.Conn
	did   atomic.Int64 // the steps it has done
	ended chan error
}

// programs are the clients of TestKilledInTheMiddle.
var programs = map[string]func(*program) error{
	"only reads": func(p *program) error { _, err := p.Read(make([]byte, 1)); return err },
	"asks and waits": func(p *program) error {
		for {
			if err := ask(p.Conn, "hello"); err != nil {
				return err
			}
			_ = p.SetDeadline(time.Time{})
			p.did.Add(1)
			time.Sleep(10 * time.Millisecond)
		}
	},
	"only writes": func(p *program) error {
		for {
			if _, err := p.Write([]byte("hello")); err != nil {
				return err
			}
			p.did.Add(1)
			time.Sleep(10 * time.Millisecond)
		}
	},
}

// TestKilledInTheMiddle compares, in both modes, what programs see when the card that their
// connections pass is killed. The bare loopback has no card: there the server is killed.
func TestKilledInTheMiddle(t *testing.T) {
	o := onWire(t, "")
	echoes(t, o.far)
	loop := o.netns + "l"
	addNetns(t, loop)
	killServer := echoes(t, loop)
	died := []string{"end", "ECONNRESET", "EPIPE"} // depends on unread data
	aborted := []string{"ECONNABORTED"}
	on := []string{goesOn}
	killCard := func() {
		before := o.status(t, "card0").Machine.PID
		kill(t, before)
		o.await(t, "card0", kinds[0].start, "another machine", func(st status.Status) error {
			if st.Machine.PID == before || st.State != status.Healthy {
				return fmt.Errorf("machine %d, %s", st.Machine.PID, st.State)
			}
			return nil
		})
	}
	for _, c := range []struct {
		place, netns, address, mode string
		kill                        func()
		want                        map[string][]string
	}{
		{"loopback", loop, "127.0.0.1", "endpoint", killServer, map[string][]string{"only reads": died, "asks and waits": died, "only writes": died}},
		{"endpoint", o.netns, worldAddr, "endpoint", killCard, map[string][]string{"only reads": aborted, "asks and waits": aborted, "only writes": aborted}},
		{"router", o.netns, worldAddr, "router", killCard, map[string][]string{"only reads": on, "asks and waits": on, "only writes": on}},
	} {
		if c.mode != "endpoint" {
			o.mode(t, c.mode, "")
		}
		running := map[string]*program{}
		for name, play := range programs {
			running[name] = startProgram(t, c.netns, c.address, play)
		}
		time.Sleep(pause)
		c.kill()
		for name, p := range running {
			got := p.fate(t, name)
			t.Logf("%s, a program that %s: %s", c.place, name, got)
			if !slices.Contains(c.want[name], got) {
				t.Errorf("%s, a program that %s: %s, want %s", c.place, name, got, strings.Join(c.want[name], " or "))
			}
		}
	}
	o.clean(t)
}

// goesOn is the fate of a program that notices only a pause.
const goesOn = "goes on"

func startProgram(t *testing.T, netns, address string, play func(*program) error) *program {
	t.Helper()
	c, err := dialIn(netns, "tcp", net.JoinHostPort(address, churnPorts[0]), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	p := &program{Conn: c, ended: make(chan error, 1)}
	go func() { p.ended <- play(p) }()
	t.Cleanup(func() { c.Close() })
	return p
}

// fate waits until a program has ended or made progress. For a program that only reads it waits for
// a while.
func (p *program) fate(t *testing.T, name string) (what string) {
	t.Helper()
	before, began := p.did.Load(), time.Now()
	until(t, deadLimit, fmt.Sprintf("a program that %s to end or go on", name), func() error {
		select {
		case err := <-p.ended:
			what = errorName(orEOF(err))
			return nil
		default:
		}
		if p.did.Load() > before+1 || name == "only reads" && time.Since(began) > abortLimit {
			what = goesOn
			return nil
		}
		return errors.New("neither")
	})
	return what
}
