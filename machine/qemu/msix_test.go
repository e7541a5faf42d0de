package qemu

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/machine"
)

// TestMSIX checks the known verdict for one version. For other versions it requires only a verdict.
func TestMSIX(t *testing.T) {
	needQEMU(t)
	path, err := exec.LookPath(arch.Host().QEMU)
	if err != nil {
		t.Fatal(err)
	}
	f, err := version(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	works, err := New(Config{Kind: machine.TCG}).msixWorks(context.Background(), f)
	t.Logf("QEMU %d.%d: MSI-X without KVM works: %v (%v; took %v)", f.major, f.minor, works, err, time.Since(begin))
	if err != nil {
		t.Fatal(err)
	}
	if f.major == 7 && f.minor == 2 && works {
		t.Error("QEMU 7.2 is known to crash")
	}
	// The device must start without MSI-X, or the trial found another fault.
	if works, err := New(Config{Kind: machine.TCG}).tryDevice(context.Background(), f, false); !works {
		t.Errorf("the device does not start without MSI-X either: %v", err)
	}
}

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		name    string
		tried   error
		ws      syscall.WaitStatus
		works   bool
		unknown bool
	}{
		{"answers", nil, syscall.WaitStatus(syscall.SIGKILL), true, false},
		{"crashes", io.EOF, syscall.WaitStatus(syscall.SIGSEGV), false, false},
		{"killed from outside", io.EOF, syscall.WaitStatus(syscall.SIGKILL), false, true},
		{"refuses an option", io.EOF, 1 << 8, false, true},
		{"hangs", errors.New("timeout"), syscall.WaitStatus(syscall.SIGKILL), false, true},
	} {
		works, err := verdict(c.tried, c.ws, "")
		if works != c.works || (err != nil) != c.unknown {
			t.Errorf("%s: works %v, error %v", c.name, works, err)
		}
	}
}

func TestAnswerVhost(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	ended := make(chan error, 1)
	go func() { ended <- answerVhost(ours) }()
	ask := func(request uint32, body ...byte) {
		var m [12]byte
		binary.LittleEndian.PutUint32(m[:], request)
		binary.LittleEndian.PutUint32(m[4:], 1)
		binary.LittleEndian.PutUint32(m[8:], uint32(len(body)))
		_, _ = theirs.Write(append(m[:], body...))
	}
	ask(3) // SET_OWNER wants no answer
	ask(1) // GET_FEATURES
	var reply [20]byte
	if _, err := io.ReadFull(theirs, reply[:]); err != nil || reply[0] != 1 || reply[4] != 5 || reply[8] != 8 {
		t.Fatalf("GET_FEATURES: % x, %v", reply, err)
	}
	ask(11, 1, 0, 0, 0, 7, 0, 0, 0) // GET_VRING_BASE of ring 1
	if _, err := io.ReadFull(theirs, reply[:]); err != nil || !bytes.Equal(reply[12:16], []byte{1, 0, 0, 0}) {
		t.Fatalf("GET_VRING_BASE: % x, %v", reply, err)
	}
	_, _ = theirs.Write(bytes.Repeat([]byte{0xff}, 12)) // a message of 4 GiB
	if err := <-ended; err == nil {
		t.Error("an endless message was taken")
	}
}

func TestReconnectOption(t *testing.T) {
	for _, c := range []struct {
		major, minor int
		want         string
	}{{7, 2, "reconnect=1"}, {9, 1, "reconnect=1"}, {9, 2, "reconnect-ms=100"}, {10, 0, "reconnect-ms=100"}} {
		if got := (features{major: c.major, minor: c.minor}).reconnect(); got != c.want {
			t.Errorf("QEMU %d.%d: %s, want %s", c.major, c.minor, got, c.want)
		}
	}
}
