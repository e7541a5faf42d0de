package fake

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/toe-project/toe/machine"
	"golang.org/x/sys/unix"
)

func console(t *testing.T) (net.Conn, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "console")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, os.NewFile(uintptr(fds[1]), "machine's end")
}

func TestScript(t *testing.T) {
	broken := errors.New("broken")
	m := &Machine{Steps: []Step{
		{Err: broken},
		{Exit: machine.Exit{Cause: machine.Rebooted}, Console: "booting\n"},
		{},
	}}
	ours, end := console(t)
	if _, err := m.Start(context.Background(), machine.Spec{Name: "a", Console: end}); !errors.Is(err, broken) {
		t.Errorf("first start: %v, want the scripted error", err)
	}
	if _, err := io.ReadAll(ours); err != nil {
		t.Errorf("console after a failed start: %v, want its end", err)
	}

	ours, end = console(t)
	i, err := m.Start(context.Background(), machine.Spec{Name: "b", Console: end})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, i)
	if got := i.Exit().Cause; got != machine.Rebooted {
		t.Errorf("second start ended %q, want %q", got, machine.Rebooted)
	}
	if text, _ := io.ReadAll(ours); string(text) != "booting\n" {
		t.Errorf("console %q after the exit, want what was printed before it", text)
	}

	for range 2 { // the last step again and again
		if i, err = m.Start(context.Background(), machine.Spec{Name: "c"}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-i.Done():
			t.Fatal("ended by itself")
		case <-time.After(5 * time.Millisecond):
		}
		if err := i.Stop(context.Background()); err != nil {
			t.Fatal(err)
		}
		wait(t, i)
		if got := i.Exit().Cause; got != machine.Stopped {
			t.Errorf("ended %q after Stop", got)
		}
	}
	if n := len(m.Specs()); n != 4 || m.Specs()[1].Name != "b" {
		t.Errorf("%d specs recorded, want 4 with b second", n)
	}
	if n := len(m.Instances()); n != 3 {
		t.Errorf("%d instances recorded, want 3", n)
	}
}

func wait(t *testing.T, i machine.Instance) {
	t.Helper()
	select {
	case <-i.Done():
	case <-time.After(5 * time.Second):
		t.Fatal("did not end in 5 s")
	}
}
