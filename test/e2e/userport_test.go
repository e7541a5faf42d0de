package e2e

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/hostnet/holder"
)

// TestUserPort tests a port that a program of the user serves: the host's own network sends what
// the card sends.
func TestUserPort(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			h := newUserHost(t)
			h.run(t, k.start, 0, "up", "-f", h.spec(t, "card.yaml", "machine: {kind: "+k.name+"}\n"))
			st := h.status(t, "card0")
			if st.State != status.Healthy {
				t.Fatalf("status: %s %v", st.State, st.Reasons)
			}
			for i := range 5 {
				t.Run(fmt.Sprintf("kill the port's pump %d", i+1), h.killUserPump)
			}
			t.Run("the host's loopback", h.loopback)
			t.Run("half-closed connections", h.halfClose)
			t.Run("kill passt", h.killPasst)
		})
	}
}

// loopback checks that the card reaches nothing on the host's loopback, neither by the addresses of
// QEMU's user network nor by loopback addresses, which no sane kernel sends.
func (h *host) loopback(t *testing.T) {
	reached := make(chan string, 100)
	var port int
	for _, address := range []string{"127.0.0.1:0", insideAddr} {
		if port != 0 {
			address = net.JoinHostPort(address, strconv.Itoa(port))
		}
		var l net.Listener
		if err := inNetns(h.netns, func() (err error) { l, err = net.Listen("tcp4", address); return err }); err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		port = l.Addr().(*net.TCPAddr).Port
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				reached <- l.Addr().String()
				// A close with the question unread resets the connection.
				_, _ = http.ReadRequest(bufio.NewReader(c))
				fmt.Fprint(c, "HTTP/1.0 200 OK\r\n\r\nhere\n")
				c.Close()
			}
		}()
	}
	ask := func(address string, want bool) {
		t.Helper()
		// A route for loopback addresses out of the port, after the card's own were removed.
		script := fmt.Sprintf(`echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet
ip route del local 127.0.0.0/8 dev lo table local; ip route del local 127.0.0.1 dev lo table local
ip route replace 127.0.0.0/8 via 10.0.2.2 src 10.0.2.15
wget -T 3 -q -O - http://%s:%d/ && echo REACHED`, address, port)
		r, err := h.try(quick, nil, "ssh", "--", script)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(r.out, "REACHED") != want {
			t.Errorf("http://%s:%d/ from the card: want reached %v: %s", address, port, want, r)
		}
	}
	ask(insideAddr, true) // otherwise the others prove nothing
	for _, address := range []string{"10.0.2.2", "10.0.2.3", "127.0.0.1"} {
		ask(address, false)
	}
	close(reached)
	for at := range reached {
		if strings.HasPrefix(at, "127.") {
			t.Error("the listener on the host's loopback was reached")
		}
	}
}

// killPasst kills passt. The connections through the port are lost, the port stays.
func (h *host) killPasst(t *testing.T) {
	before := h.status(t, "card0")
	killed := 0
	for pid, p := range descendants(before.Supervisor.PID) {
		if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); strings.HasPrefix(string(comm), "passt") {
			kill(t, p.pid)
			killed++
		}
	}
	if killed != 1 {
		t.Fatalf("%d processes called passt, want 1", killed)
	}
	until(t, 10*time.Second, "the port to carry packets again", func() error {
		r, err := h.try(quick, []string{roleVariable + "=get"}, "exec", "--", self, "http://"+worldAddr+"/")
		if err == nil && r.out != insideAddr {
			err = fmt.Errorf("the world was asked by %q: %s", r.out, r)
		}
		return err
	})
	after := h.status(t, "card0")
	if after.Machine.PID != before.Machine.PID || after.State != status.Healthy {
		t.Errorf("machine %d before; %d after, state %s %v", before.Machine.PID, after.Machine.PID, after.State, after.Reasons)
	}
	if text := fmt.Sprint(after.History); !strings.Contains(text, "passt ended") {
		t.Errorf("the history does not tell of it: %s", text)
	}
}

// inside returns the path of the namespace of toe exec.
func (h *host) inside(t *testing.T) string {
	t.Helper()
	for pid, p := range descendants(h.status(t, "card0").Supervisor.PID) {
		if strings.Contains(p.command(), holder.Verb) {
			return fmt.Sprintf("/proc/%d/ns/net", pid)
		}
	}
	t.Fatal("no process keeps the namespace of toe exec")
	return ""
}

// killUserPump kills the pump of a user port under traffic. The stream to passt continues where it
// was, so connections survive.
func (h *host) killUserPump(t *testing.T) {
	before := h.status(t, "card0")
	within := h.inside(t)
	s := startStream(t, within)
	p := startProbeTo(t, within, outsideAddr) // it echoes the datagrams
	s.moves(t, 10*time.Second)
	p.gap.Store(0)
	kill(t, before.Ports[0].PumpPID)
	p.answers(t, pumpGap)
	stalled := s.moves(t, 5*time.Second)
	s.finish(t)
	gap := time.Duration(p.gap.Load())
	t.Logf("no packet for %s; TCP goes on after %s", gap.Round(time.Millisecond), stalled.Round(time.Millisecond))
	if gap > pumpGap {
		t.Errorf("no packet for %s; at most %s", gap, pumpGap)
	}
	after := h.status(t, "card0")
	if after.Ports[0].PumpPID == before.Ports[0].PumpPID || after.Machine.PID != before.Machine.PID {
		t.Errorf("pump %d, machine %d before; %d and %d after", before.Ports[0].PumpPID, before.Machine.PID, after.Ports[0].PumpPID, after.Machine.PID)
	}
}
