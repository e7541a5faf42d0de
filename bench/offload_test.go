package bench

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
)

// localWorld is the world's server on the loopback.
func localWorld(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go worldAccept(l)
	return l.Addr().String()
}

func TestLoadsMoveWhatTheySay(t *testing.T) {
	address, file := localWorld(t), filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, make([]byte, 1<<20+17), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, l := range loads {
		t.Run(l.name, func(t *testing.T) {
			done, err := (&loader{}).do(loadOrder{What: l.name, Address: address, Workers: 2, Length: 100 * time.Millisecond, File: file})
			if err != nil {
				t.Fatal(err)
			}
			moved := done.Count
			if l.bulk {
				moved = done.Bytes
			}
			if moved <= 0 || done.Seconds < 0.1 {
				t.Errorf("%+v, want something moved in 0.1 s", done)
			}
		})
	}
}

func TestTheWorldCountsWhatArrived(t *testing.T) {
	c, err := dialWorld(localWorld(t), 'i')
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const size = 3<<20 + 5
	if _, err := c.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	var done loadDone
	if err := arrived(c, &done); err != nil || done.Bytes != size {
		t.Errorf("%.0f bytes arrived, %v; want %d", done.Bytes, err, size)
	}
}

func TestIdleConnectionsStayOpen(t *testing.T) {
	l := &loader{}
	done, err := l.do(loadOrder{What: "open", Address: localWorld(t), Workers: 4, Count: 50})
	if err != nil || done.Count != 50 || len(l.held) != 50 {
		t.Fatalf("%.0f connections opened, %d held, %v; want 50", done.Count, len(l.held), err)
	}
	c := l.held[49]
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("an idle connection: %v, want nothing", err)
	}
	if _, err := l.do(loadOrder{What: "close"}); err != nil || len(l.held) != 0 {
		t.Errorf("%d connections held after close, %v", len(l.held), err)
	}
}

func TestLoadRefusesWhatItDoesNotKnow(t *testing.T) {
	in := strings.NewReader(`{"what":"dance","workers":1}` + "\n")
	var out bytes.Buffer
	if err := loadServe(in, &out); err != nil || !strings.Contains(out.String(), `no load is called \"dance\"`) {
		t.Errorf("answer %q, %v", out.String(), err)
	}
	if err := OffloadPart("dance", nil, io.Discard); err == nil {
		t.Error("a part that there is not has no error")
	}
}

func TestWithoutPort(t *testing.T) {
	args := []string{"-m", "256M", "-device", "virtio-net-pci,netdev=net0,mac=a", "-device", "virtio-net-pci,netdev=net1,mac=b"}
	rest, port, err := withoutPort(args)
	if err != nil || port != "virtio-net-pci,netdev=net1,mac=b" || !slices.Equal(rest, args[:4]) {
		t.Errorf("%q, %q, %v", rest, port, err)
	}
	if _, _, err := withoutPort(args[:4]); err == nil {
		t.Error("a card without a port has no error")
	}
}

func TestMemAvailable(t *testing.T) {
	if kib, err := memAvailable("MemTotal: 247420 kB\nMemAvailable:   221224 kB\n"); err != nil || kib != 221224 {
		t.Errorf("%v, %v", kib, err)
	}
	if _, err := memAvailable("MemTotal: 247420 kB\n"); err == nil {
		t.Error("no line, and no error")
	}
}

// offloadReport has a load of three works at the same ratio of 3.
func offloadReport() Report {
	r := &run{}
	for _, k := range []work{plainWork, rulesWork, cryptWork} {
		for _, f := range []string{"host-cpu", "mover-cpu", "card-cpu", "wire-cpu", "throughput"} {
			r.add("uml/"+string(k)+"/send/endpoint/"+f, "s/GiB", []float64{1}).lower([]float64{3}, baselineWay)
		}
	}
	r.add("uml/idle/1000/memory", "KiB/connection", []float64{7})
	r.skip("tcg/plain/tap", "no <tap>")
	r.judgeOffload()
	return r.report
}

func TestOffloadAims(t *testing.T) {
	for _, res := range offloadReport().Results {
		want := ""
		switch {
		case res.Name == "uml/plain/send/endpoint/host-cpu":
			want = "met"
		case strings.HasSuffix(res.Name, "/endpoint/host-cpu"):
			want = "not met"
		}
		got := ""
		if res.Met != nil {
			got = map[bool]string{true: "met", false: "not met"}[*res.Met]
		}
		if got != want {
			t.Errorf("%s: %q, want %q", res.Name, got, want)
		}
	}
}

func TestOffloadReportIsReadable(t *testing.T) {
	rep := offloadReport()
	var text, chart bytes.Buffer
	rep.PrintOffload(&text)
	for _, want := range []string{"uml/plain/send/endpoint", "not met", "uml/idle/1000/memory: 7.00 KiB/connection", "not measured: tcg/plain/tap: no <tap>"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, &text)
		}
	}
	if err := rep.OffloadChart(&chart); err != nil {
		t.Fatal(err)
	}
	if err := xml.Unmarshal(chart.Bytes(), new(struct{})); err != nil {
		t.Errorf("the chart is not XML: %v", err)
	}
	if n := strings.Count(chart.String(), ">endpoint<"); n != 3 {
		t.Errorf("%d bars in the chart, want 3", n)
	}
}

func TestTunnelsFitTogether(t *testing.T) {
	world, card, host, err := tunnels()
	if err != nil {
		t.Fatal(err)
	}
	for _, end := range []tunnelEnd{card, host} {
		words := end.ipc()
		for _, want := range []string{"endpoint=" + worldAddr, "allowed_ip=" + tunnelWorld + "/32"} {
			if !strings.Contains(words, want) {
				t.Errorf("no %q in %q", want, words)
			}
		}
		if !slices.ContainsFunc(world.Peers, func(p tunnelPeer) bool { return p.Allowed == end.Address }) {
			t.Errorf("the world does not know %s", end.Address)
		}
	}
}

// TestEveryPacketMeetsEveryRule makes the firewall in a namespace of its own, and reads its
// counters.
func TestEveryPacketMeetsEveryRule(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a network namespace needs root")
	}
	ns, err := newNSThread()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.close()
	rules := func(f firewall, hidden []packets) (n map[string]int) {
		n = map[string]int{}
		err := ns.do(func() error {
			if err := replaceRules(f, hidden); err != nil {
				return err
			}
			c, err := nftables.New()
			if err != nil {
				return err
			}
			chains, err := c.ListChains()
			for _, ch := range chains {
				list, err := c.GetRules(ch.Table, ch)
				if err != nil {
					return err
				}
				n[ch.Name] = len(list)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const around = 2 // other devices, and what is invalid
	if n := rules(firewall{"lo", ruleCount}, []packets{{"a", "b"}}); n["in"] != ruleCount+around || n["out"] != ruleCount+around || n["nat"] != 1 {
		t.Errorf("rules by chain: %v", n)
	}
	if n := rules(firewall{}, nil); len(n) != 0 {
		t.Errorf("without a firewall: %v", n)
	}
}
