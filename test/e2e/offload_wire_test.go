package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// mib is for the sizes of transfers.
const mib = 1 << 20

// TestOffloadWire watches both sides of an endpoint while data passes: large segments without a
// computed checksum on the link, small and correct ones on the wire.
func TestOffloadWire(t *testing.T) {
	o := onWire(t, "")
	newWorld(t, o.far)
	o.push(t, "card0")
	o.tune(t, "card0", "plain", "wan")
	if err := inNetns(o.far, func() error { return plain("wan0") }); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name string
		walk func(*offloaded, *testing.T)
	}{
		{"segment sizes", (*offloaded).segmentSizes},
		{"checksums", (*offloaded).checksums},
		{"large datagrams", (*offloaded).largeDatagrams},
		{"sendfile", (*offloaded).sendfile},
	} {
		t.Run(step.name, func(t *testing.T) { step.walk(o, t) })
	}
	o.clean(t)
}

func (o *offloaded) exchange(t *testing.T, at string, size int64) time.Duration {
	t.Helper()
	c, err := dialIn(o.netns, "tcp", net.JoinHostPort(at, "9"), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Minute))
	began := time.Now()
	if err := exchange(c, size, 1); err != nil {
		t.Fatal(err)
	}
	return time.Since(began)
}

var ssSize = regexp.MustCompile(`\bmss:(\d+)`)

// segmentSizes queries ss(8) on the host, and watches the wire.
func (o *offloaded) segmentSizes(t *testing.T) {
	for _, at := range []string{worldAddr, worldAddr6} {
		w := watchOn(t, o.far, "wan0", true)
		c, err := dialIn(o.netns, "tcp", net.JoinHostPort(at, "9"), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		if err := exchange(c, 8*mib, 1); err != nil {
			t.Fatal(err)
		}
		text := inside(t, o.netns, "ss", "-tin", "dst", "["+at+"]")
		host := 0
		if m := ssSize.FindStringSubmatch(text); m != nil {
			host, _ = strconv.Atoi(m[1])
		}
		c.Close()
		w.settle()
		s := w.end()
		t.Logf("to %s: MSS on the host %d; on the wire an option of %d, payload of at most %d bytes in %d packets", at, host, s.segmentSize, s.tcpPayload, s.packets)
		if host < 65400 {
			t.Errorf("ss says of the host's connection: %s", text)
		}
		if s.tcpPayload > 1460 || s.tcpPayload < 1400 || s.segmentSize > 1460 {
			t.Errorf("segments of the wire: %+v", s)
		}
	}
}

// checksums verifies every packet of a transfer on the wire, and the kernel's record of those on
// the link.
func (o *offloaded) checksums(t *testing.T) {
	size := int64(scale(64, 1024)) * mib
	wire, link := watchOn(t, o.far, "wan0", true), watchOn(t, o.netns, "toe0", false)
	took := o.exchange(t, worldAddr, size)
	wire.settle()
	w, l := wire.end(), link.end()
	t.Logf("%d MiB each way in %s, watched", size/mib, took.Round(time.Millisecond))
	t.Logf("wire: %d packets verified, %d bad, %d not seen", w.packets, w.bad, w.lost)
	t.Logf("link: %d packets, %d not seen; with payload to the card %+v, from it %+v", l.packets, l.lost, l.out, l.in)
	if w.bad != 0 || l.bad != 0 {
		t.Errorf("bad packets: %d on the wire (%s), %d on the link (%s)", w.bad, w.badExample, l.bad, l.badExample)
	}
	// This proves something only if most packets were seen.
	if want := 2 * size / 1460; int64(w.packets)+int64(w.lost) < want || int64(w.packets) < want/2 {
		t.Errorf("%d packets seen on the wire and %d missed; %d full segments were needed", w.packets, w.lost, want)
	}
	if w.out.notComputed != 0 || w.in.notComputed != 0 {
		t.Errorf("segments without a checksum on the wire: %+v %+v", w.out, w.in)
	}
	if l.out.notComputed == 0 || l.out.valid+l.out.unknown != 0 {
		t.Errorf("to the card, segments with payload: %+v; none should have a checksum", l.out)
	}
	if l.in.notComputed+l.in.valid == 0 || l.in.unknown != 0 {
		t.Errorf("from the card, segments with payload: %+v; none should be for the host to verify", l.in)
	}
	if l.fragments != 0 || l.sackIn != 0 {
		t.Errorf("on the link %d fragments, and %d answers with SACK", l.fragments, l.sackIn)
	}
}

// largeDatagrams cross the link whole, and the wire as correct fragments.
func (o *offloaded) largeDatagrams(t *testing.T) {
	wire, link := watchOn(t, o.far, "wan0", true), watchOn(t, o.netns, "toe0", false)
	c, err := dialIn(o.netns, "udp", net.JoinHostPort(worldAddr, "7"), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(quick))
	const count = 20
	out, in := make([]byte, 60_000), make([]byte, 65_536)
	_, _ = io.ReadFull(noise(1), out)
	for range count {
		if _, err := c.Write(out); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(in); err != nil || string(in[:n]) != string(out) {
			t.Fatalf("%d bytes came back of %d: %v", n, len(out), err)
		}
	}
	wire.settle()
	w, l := wire.end(), link.end()
	t.Logf("wire: %d fragments, %d datagrams verified, %d bad; link: %d packets, %d fragments", w.fragments, w.whole, w.bad, l.packets, l.fragments)
	if w.bad != 0 || w.whole != 2*count || l.bad != 0 || l.fragments != 0 {
		t.Errorf("wire %+v, link %+v; want %d whole datagrams and nothing bad", w, l, 2*count)
	}
}

// sendfile sends a file with sendfile(2). The program moves its bytes once (from the file into the
// socket, by reference), the pump once (the copy into the card's memory), and no other process
// does.
func (o *offloaded) sendfile(t *testing.T) {
	size := int64(scale(128, 1024)) * mib
	file := filepath.Join(o.dir, "file")
	f, err := os.Create(file)
	if err == nil {
		_, err = io.CopyN(f, noise(5), size)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	l := world{o.far}.listen(t, worldAddr+":90")
	got := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- err.Error()
			return
		}
		defer c.Close()
		got <- sum(c)
	}()
	pump := o.status(t, "card0").Pump.PID
	before := processIO(t, pump)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", o.netns, self, file, worldAddr+":90")
	cmd.Env = append(os.Environ(), roleVariable+"=send")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("send: %v: %s", err, out)
	}
	if want := sum(io.LimitReader(noise(5), size)); <-got != want {
		t.Error("the file arrived as something else")
	}
	after := processIO(t, pump)
	lines := strings.Split(string(out), "\n")
	p0, p1 := parseIO(lines[0]), parseIO(lines[1])
	read, written, calls := p1["rchar"]-p0["rchar"], p1["wchar"]-p0["wchar"], p1["syscr"]-p0["syscr"]
	pumped, back := after["rchar"]-before["rchar"], after["wchar"]-before["wchar"]
	t.Logf("file of %d bytes; program: %.4f of it read and %.4f written, in %d calls; pump: %.4f of it read, %.4f written",
		size, float64(read)/float64(size), float64(written)/float64(size), calls, float64(pumped)/float64(size), float64(back)/float64(size))
	// sendfile(2) counts as reading and as writing.
	if !once(read, size) || !once(written, size) {
		t.Errorf("the program read %d and wrote %d bytes; sendfile alone is %d of each", read, written, size)
	}
	if !once(pumped, size) || back > size/20 {
		t.Errorf("the pump read %d bytes from the host's interface and wrote %d to it; want %d and few", pumped, back, size)
	}
}

// once allows for headers and other traffic: much less than twice.
func once(n, size int64) bool { return n >= size && n < size+size/10 }

func processIO(t *testing.T, pid int) map[string]int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		t.Fatal(err)
	}
	return parseIO(strings.ReplaceAll(string(text), "\n", " "))
}

// parseIO reads proc_pid_io(5) on one line.
func parseIO(line string) map[string]int64 {
	all := map[string]int64{}
	f := strings.Fields(line)
	for i := 0; i+1 < len(f); i += 2 {
		all[strings.TrimSuffix(f[i], ":")], _ = strconv.ParseInt(f[i+1], 10, 64)
	}
	return all
}
