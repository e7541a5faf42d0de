//go:build amd64 || arm64 || arm || riscv64 || ppc64le || s390x

package sandbox

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

const orphanEnv = "TOE_SANDBOX_TEST_ORPHAN"

// TestOrphan is not a test: it is the process that TestCellDiesWithParent kills.
func TestOrphan(t *testing.T) {
	if os.Getenv(orphanEnv) == "" {
		t.Skip("only as a child of TestCellDiesWithParent")
	}
	p, err := Start(context.Background(), programCell(t, Cell{}, "spawn=sleep", "sleep"), Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("cell", p.PID())
	time.Sleep(time.Minute)
}

// TestCellDiesWithParent: even by SIGKILL, although the change of user cancels the death signal,
// and from any thread.
func TestCellDiesWithParent(t *testing.T) {
	skipWithoutNamespaces(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestOrphan$", "-test.v")
	cmd.Env = append(os.Environ(), orphanEnv+"=1", programsEnv+"="+programs)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	for in := bufio.NewScanner(out); pid == 0 && in.Scan(); {
		if n, ok := strings.CutPrefix(in.Text(), "cell "); ok {
			pid, _ = strconv.Atoi(n)
		}
	}
	if pid == 0 {
		_ = cmd.Wait()
		t.Fatal("the parent said nothing of a cell")
	}
	time.Sleep(50 * time.Millisecond) // threads of the parent come and go
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err != nil {
		t.Fatalf("the cell ended before its parent: %v", err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	for limit := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(b), ") Z ") {
			return // gone, or waiting for init to reap it
		}
		if time.Now().After(limit) {
			t.Fatalf("process %d lives on after its parent", pid)
		}
	}
}

// TestCellStops: Kill ends what the program started, too.
func TestCellStops(t *testing.T) {
	skipWithoutNamespaces(t)
	p, err := Start(context.Background(), programCell(t, Cell{}, "spawn=sleep", "sleep"), Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	case <-time.After(5 * time.Second):
		t.Fatal("did not end in 5 s")
	}
	if err := p.Kill(); err != nil {
		t.Errorf("killing it again: %v", err)
	}
}
