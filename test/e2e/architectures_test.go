package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/internal/arch"
)

// translated bounds the start of a card of another architecture, beside another one on two CPUs.
const translated = 4 * time.Minute

// TestArchitectures is a short journey with a card of each other architecture than the host's, as
// many at once as there are CPUs. TOE_E2E_ARCHITECTURES=no skips it.
func TestArchitectures(t *testing.T) {
	if os.Getenv("TOE_E2E_ARCHITECTURES") == "no" {
		t.Skip("TOE_E2E_ARCHITECTURES=no")
	}
	for _, a := range arch.All {
		if !a.IsHost() {
			t.Run(a.Name, func(t *testing.T) {
				t.Parallel()
				architecture(t, a)
			})
		}
	}
}

func architecture(t *testing.T, a arch.Arch) {
	j := newForeignJourney(t, a)
	j.up(t)
	if got := j.card.Machine.Arch; got != a.Name {
		t.Errorf("machine.arch in the status is %q, want %s", got, a.Name)
	}
	if !j.card.Offload.Running {
		t.Fatalf("endpoint mode does not run: %+v", j.card.Offload)
	}
	j.largePing(t)
	const size = 4 << 20
	j.exchangeTCP(t, size)
	j.exchangeUDP(t)
	j.ssh(t)
	j.counted(t, size)
	j.down(t)
}

// newForeignJourney fails without the architecture's firmware, or with one whose agent is another than
// that of this tree: test/run makes them.
func newForeignJourney(t *testing.T, a arch.Arch) *journey {
	t.Helper()
	j := newJourney(t, kind{name: "tcg", arch: a.Name, start: translated})
	all, err := images(cache)
	if err != nil {
		t.Fatal(err)
	}
	fix := fmt.Sprintf("fix: toe firmware build --offline --arch %s, or skip with TOE_E2E_ARCHITECTURES=no", a.Name)
	at := slices.IndexFunc(all, func(i firmware.ImageStatus) bool { return i.Edition == firmware.Micro && i.Arch == a.Name })
	if at < 0 {
		t.Fatalf("no firmware for %s; %s", a.Name, fix)
	}
	if all[at].Differs != "" {
		t.Fatalf("%s: %s; %s", all[at].Path, all[at].Differs, fix)
	}
	return j
}

// exchangeTCP sends data through endpoint mode and gets other data back.
func (j *journey) exchangeTCP(t *testing.T, size int64) {
	t.Helper()
	c, err := dialIn(j.netns, "tcp", net.JoinHostPort(worldAddr, "9"), quick)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	began := time.Now()
	if err := exchange(c, size, 1); err != nil {
		t.Fatalf("TCP: %v", err)
	}
	t.Logf("%d MiB each way in %s", size>>20, time.Since(began).Round(time.Millisecond))
}

// exchangeUDP sends datagrams through endpoint mode and gets them back: one that fits the wire, and
// one of many fragments.
func (j *journey) exchangeUDP(t *testing.T) {
	t.Helper()
	c, err := dialIn(j.netns, "udp", net.JoinHostPort(worldAddr, "7"), quick)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	setOption(t, c.(*net.UDPConn), unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
	for _, size := range []int{1000, 60_000} {
		if err := echo(c, make([]byte, size)); err != nil {
			t.Fatalf("UDP, %d bytes: %v", size, err)
		}
	}
}

// counted waits until the status shows that the exchanges went through endpoint mode.
func (j *journey) counted(t *testing.T, size uint64) {
	t.Helper()
	j.await(t, "card0", quick, "the counters of endpoint mode", func(st status.Status) error {
		tcp, udp := st.Offload.TCP, st.Offload.UDP
		if tcp == nil || tcp.FromHostBytes < size || tcp.ToHostBytes < size {
			return fmt.Errorf("TCP is %+v, want %d bytes each way", tcp, size)
		}
		if udp == nil || udp.FromHost < 2 || udp.ToHost < 2 {
			return fmt.Errorf("UDP is %+v, want two datagrams each way", udp)
		}
		return nil
	})
}

// echo sends a datagram of noise, and wants it back.
func echo(c net.Conn, sent []byte) error {
	_ = c.SetDeadline(time.Now().Add(quick))
	if _, err := noise(uint64(len(sent))).Read(sent); err != nil {
		return err
	}
	if _, err := c.Write(sent); err != nil {
		return err
	}
	got := make([]byte, len(sent)+1)
	n, err := c.Read(got)
	if err == nil && !bytes.Equal(got[:n], sent) {
		err = errors.New("another datagram came back")
	}
	return err
}
