package bench

import (
	"bytes"
	"debug/elf"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/toe-project/toe/link/frame"
)

// A card's QEMU as machine/qemu starts it, without the program.
var cardArgs = []string{
	"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-accel", "tcg,thread=multi", "-cpu", "max",
	"-m", "256M", "-kernel", "/card/kernel", "-append", "console=ttyS0 quiet", "-initrd", "/card/initrd",
	"-chardev", "socket,id=qmp,fd=4", "-mon", "chardev=qmp,mode=control", "-add-fd", "fd=6,set=1,opaque=console",
	"-chardev", "socket,id=console,fd=5", "-serial", "chardev:console", "-device", "virtio-rng-pci,rng=rng,vectors=0",
	"-chardev", "socket,id=vhost0,path=/card/net0,reconnect=1", "-netdev", "vhost-user,id=net0,chardev=vhost0,queues=1",
	"-device", "virtio-net-pci,netdev=net0,mac=02:00:00:00:00:01,disable-legacy=on,romfile=,rx_queue_size=1024,tx_queue_size=1024,host_mtu=65535,mq=off,vectors=0",
}

func TestRivalDiffersInItsNetworkOnly(t *testing.T) {
	got, err := rivalCommand(cardArgs, rivalArgs{kernel: "/k", initrd: "/i", console: "/c", netdev: "tap,id=net0,fd=3", device: ",x=off"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-accel", "tcg,thread=multi", "-cpu", "max",
		"-m", "256M", "-kernel", "/k", "-append", "console=ttyS0 quiet", "-initrd", "/i", "-device", "virtio-rng-pci,rng=rng,vectors=0",
		"-device", "virtio-net-pci,netdev=net0,mac=02:00:00:00:00:01,disable-legacy=on,romfile=,rx_queue_size=1024,x=off",
		"-chardev", "file,id=console,path=/c", "-serial", "chardev:console", "-netdev", "tap,id=net0,fd=3",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, " "), strings.Join(want, " "))
	}
}

func TestValueOf(t *testing.T) {
	for option, want := range map[string]string{"-kernel": "/card/kernel", "-initrd": "/card/initrd", "-bios": "", "-device": "virtio-rng-pci,rng=rng,vectors=0"} {
		if got := valueOf(cardArgs, option); got != want {
			t.Errorf("%s: %q, want %q", option, got, want)
		}
	}
}

func TestRivalOfWhatIsNoCard(t *testing.T) {
	for name, args := range map[string][]string{
		"no network":   cardArgs[:len(cardArgs)-2],
		"two networks": append(slices.Clone(cardArgs), cardArgs[len(cardArgs)-2:]...),
		"no value":     append(slices.Clone(cardArgs), "-object"),
		"a stray word": append([]string{"stray"}, cardArgs...),
		"nothing":      nil,
	} {
		if got, err := rivalCommand(args, rivalArgs{}); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestVCPU(t *testing.T) {
	ms := time.Millisecond
	for name, c := range map[string]struct {
		used map[int]time.Duration
		want int // 0 for an error
	}{
		"booted":               {map[int]time.Duration{7: 400 * ms, 8: 2 * ms, 9: 2000 * ms}, 9},
		"the main loop was at": {map[int]time.Duration{7: 5000 * ms, 8: 2 * ms, 9: 2000 * ms}, 9},
		"two alike":            {map[int]time.Duration{7: 1 * ms, 8: 900 * ms, 9: 2000 * ms}, 0},
		"not booted":           {map[int]time.Duration{7: 40 * ms, 8: 0, 9: 20 * ms}, 0},
		"one thread":           {map[int]time.Duration{7: 400 * ms}, 0},
	} {
		got, err := vcpuOf(7, c.used)
		if got != c.want || (err != nil) != (c.want == 0) {
			t.Errorf("%s: %d, %v, want %d", name, got, err, c.want)
		}
	}
}

func TestSchedstat(t *testing.T) {
	if d, err := parseSchedstat("x", "1500000000 17 3\n"); d != 1500*time.Millisecond || err != nil {
		t.Errorf("%v, %v", d, err)
	}
	for _, bad := range []string{"", "x 1 2", "-5 0 0"} {
		if d, err := parseSchedstat("x", bad); err == nil {
			t.Errorf("%q gives %v", bad, d)
		}
	}
}

func TestInterruptTime(t *testing.T) {
	const stat = "cpu  518546 67177 219391 1553041 8349 5 3874 1609 0 0\ncpu0 1 1 1 1 1 1 1 1\n"
	if got := interruptTime(stat); got != 38790*time.Millisecond {
		t.Errorf("%v, want irq and softirq: 38.79s", got)
	}
	if got := interruptTime("cpu 1 2"); got != 0 {
		t.Errorf("a short line gives %v", got)
	}
}

func TestPSS(t *testing.T) {
	if kib, err := pss("Rss:    900 kB\nPss:             123 kB\nPss_Dirty: 4 kB\n"); kib != 123 || err != nil {
		t.Errorf("%v, %v", kib, err)
	}
	if _, err := pss("Rss: 1 kB\n"); err == nil {
		t.Error("a file without Pss was accepted")
	}
}

// Every layout holds the packet whole behind one header, and the card's
// buffers are used one after the other.
func TestLayouts(t *testing.T) {
	for _, size := range sizes {
		packet := ipPacket(size)
		for name, c := range map[string]struct {
			p       places
			buffers int
		}{
			"one hot":      {oneHot(packet), 1},
			"like send":    {likeSend(packet), 1},
			"like receive": {likeReceive(packet), (size + frame.SeamLen + receiveBuffer(size) - 1) / receiveBuffer(size)},
		} {
			seen := map[*byte]int{}
			for i, v := range c.p {
				total := 0
				for _, b := range v[1:] {
					total += int(b.Len)
				}
				if v[0].Len != frame.HeaderLen || total != size || len(v)-1 != c.buffers {
					t.Fatalf("%s, %d bytes, place %d: header %d, %d bytes in %d buffers, want %d", name, size, i, v[0].Len, total, len(v)-1, c.buffers)
				}
				seen[v[1].Base]++
			}
			for _, n := range seen {
				if n > 1 {
					t.Fatalf("%s, %d bytes: a place comes twice in one cycle", name, size)
				}
			}
			if want := 1; name == "one hot" && len(c.p) != want {
				t.Errorf("%s: %d places", name, len(c.p))
			}
		}
	}
}

func TestBareProgramIsAnELF(t *testing.T) {
	f, err := elf.NewFile(bytes.NewReader(bareProgram()))
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Progs) != 1 || f.Entry < f.Progs[0].Vaddr || f.Entry >= f.Progs[0].Vaddr+f.Progs[0].Filesz {
		t.Errorf("entry %#x outside of %+v", f.Entry, f.Progs)
	}
	if !bytes.HasSuffix(bareProgram(), []byte(bareWords+"\n")) {
		t.Error("the words are not at the end")
	}
}

func TestSeriesReport(t *testing.T) {
	r, s := &run{}, &series{}
	for _, v := range []float64{1, 3, 2} {
		s.add(measure{name: "to-card/1/throughput", unit: "Gbit/s", higher: true}, "link", v)
		s.add(measure{name: "to-card/1/throughput", unit: "Gbit/s", higher: true}, "tap-1500-tso", v/2)
		s.add(measure{name: "to-card/1/first-second", unit: "Gbit/s", higher: true, alone: true}, "link", v)
		s.add(measure{name: "to-card/1/first-second", unit: "Gbit/s", higher: true, alone: true}, "tap-1500-tso", v)
	}
	s.report(r, "tcg", []*rig{{name: "link"}, {name: "tap-1500-tso"}, {name: "passt"}})
	var names []string
	for _, res := range r.report.Results {
		names = append(names, res.Name)
	}
	if want := []string{"tcg/link/to-card/1/throughput", "tcg/link/to-card/1/throughput/vs/tap-1500-tso", "tcg/link/to-card/1/first-second"}; !slices.Equal(names, want) {
		t.Fatalf("rows %q, want %q", names, want)
	}
	if res := r.report.Results[1]; res.Value != 2 || *res.Baseline != 1 || *res.Ratio != 2 || len(res.BaselineRounds) != 3 {
		t.Errorf("%+v", res)
	}
}
