package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// captures captures on the port and on the link while packets pass, and has tcpdump read the files.
func (j *journey) captures(t *testing.T) {
	if _, err := exec.LookPath("tcpdump"); err != nil {
		t.Skip("tcpdump is missing")
	}
	file := filepath.Join(j.dir, "wan.pcapng")
	if r := j.run(t, quick, 1, "capture", "--port", "eth9", "-w", file); !strings.Contains(r.String(), `port "eth9"`) ||
		!strings.Contains(r.String(), "want one of link, wan") {
		t.Errorf("a port that is not there: %s", r)
	}
	if _, err := os.Stat(file); err == nil {
		t.Errorf("a refused capture left %s", file)
	}
	if seen := j.captured(t, "wan", file, worldAddr); !strings.Contains(seen, cardAddr+" > "+worldAddr+": ICMP echo request") ||
		!strings.Contains(seen, worldAddr+" > "+cardAddr+": ICMP echo reply") {
		t.Errorf("on wan:\n%s", seen)
	}
	gateway := j.gateway().String()
	if seen := j.captured(t, "link", file, gateway); !strings.Contains(seen, gateway+": ICMP echo request") || strings.Contains(seen, ".7464") {
		t.Errorf("on the link:\n%s", seen)
	}
	pings := exec.Command("ip", "netns", "exec", j.netns, "ping", "-q", "-i0.2", "-w30", gateway)
	if err := pings.Start(); err != nil {
		t.Fatal(err)
	}
	r := j.run(t, quick, 0, "capture", "--port", "link", "-c", "2", "-w", file)
	_ = pings.Process.Kill()
	_ = pings.Wait()
	if !strings.Contains(r.String(), "2 packets of pci0, 0 dropped") {
		t.Errorf("two packets: %s", r)
	}
}

// captured returns what tcpdump reads in a capture during which the host pings an address. Ctrl-C
// ends the capture.
func (j *journey) captured(t *testing.T, port, file, to string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), quick)
	defer cancel()
	cmd := j.command(ctx, "capture", "--port", port, "-w", file)
	said, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	cmd.Stderr = w
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	text := make(chan string, 1024)
	go readAll(said, text)
	expect(t, text, "Ctrl-C ends")
	if out, err := exec.CommandContext(ctx, "ip", "netns", "exec", j.netns, "ping", "-c1", "-W5", to).CombinedOutput(); err != nil {
		t.Errorf("ping %s: %v: %s", to, err, out)
	}
	until(t, quick, "request and reply are in the file", func() error {
		b, err := os.ReadFile(file)
		if n := bytes.Count(b, []byte("\x30\x31\x32\x33\x34\x35\x36\x37")); err == nil && n < 2 { // the end of ping's data
			err = fmt.Errorf("%d packets of ping", n)
		}
		return err
	})
	_ = cmd.Process.Signal(syscall.SIGINT)
	expect(t, text, " dropped")
	if err := cmd.Wait(); err != nil {
		t.Errorf("capture on %s after Ctrl-C: %v", port, err)
	}
	out, err := exec.Command("tcpdump", "-n", "-r", file).CombinedOutput()
	if err != nil || strings.Contains(string(out), "truncated") {
		t.Errorf("tcpdump of %s: %v", port, err)
	}
	return string(out)
}
