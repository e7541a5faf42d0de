package vring

import (
	"errors"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Faults of other implementations' ring code, by name. Each row writes a ring and
// gives the wanted result of Take. A good chain follows each bad one and must come
// through: an error wedges nothing (OpenVMM 4045).
func TestHistory(t *testing.T) {
	const buf = guestBase + bufferAt
	const w, n, ind = descWrite, descNext, descIndirect
	for _, c := range []struct {
		name string
		make func(*rig)
		ring int  // entries, default 8
		read bool // the device reads
		flat bool // no indirect tables negotiated
		err  error
		size int // of a good chain
		segs int
	}{
		{name: "one buffer", make: func(g *rig) { g.desc(0, 0, buf, 100, w, 0) }, size: 100, segs: 1},
		{name: "address wraps (CVE-2018-1059)", make: func(g *rig) { g.desc(0, 0, ^uint64(0)-10, 100, w, 0) }, err: ErrAddress},
		{name: "address wraps onto the memory (CVE-2018-1059)", make: func(g *rig) { g.desc(0, 0, ^uint64(0xfff), 0x2000, w, 0) }, err: ErrAddress},
		{name: "gpa-base+size wraps (a Go back end)", make: func(g *rig) { g.desc(0, 0, guestBase+memSize-1, 0xffffffff, w, 0) }, err: ErrChain},
		{name: "leaves the region by one byte (CVE-2018-1059)", make: func(g *rig) { g.desc(0, 0, guestBase+memSize-99, 100, w, 0) }, err: ErrAddress},
		{name: "ends where the region ends", make: func(g *rig) { g.desc(0, 0, guestBase+memSize-100, 100, w, 0) }, size: 100, segs: 1},
		{name: "begins behind the region", make: func(g *rig) { g.desc(0, 0, guestBase+memSize, 1, w, 0) }, err: ErrAddress},
		{name: "begins before the region", make: func(g *rig) { g.desc(0, 0, guestBase-1, 10, w, 0) }, err: ErrAddress},
		{name: "user address instead of guest address", make: func(g *rig) { g.desc(0, 0, userBase+bufferAt, 10, w, 0) }, err: ErrAddress},
		{name: "memory that is not in the table (User-Mode Linux)", make: func(g *rig) { g.desc(0, 0, 0x6000_0000, 10, w, 0) }, err: ErrAddress},
		{name: "runs over the seam of two regions", make: func(g *rig) { g.desc(0, 0, buf+0x700, 0x200, w, 0) }, size: 0x200, segs: 1}, // the host has them side by side
		{name: "one goes on where the other ends", make: func(g *rig) { g.desc(0, 0, buf, 0x20, w|n, 3); g.desc(0, 3, buf+0x20, 0x10, w, 0) }, size: 0x30, segs: 1},
		{name: "one ends where the other begins", make: func(g *rig) { g.desc(0, 0, buf+0x20, 0x20, w|n, 3); g.desc(0, 3, buf, 0x20, w, 0) }, size: 0x40, segs: 2},
		{name: "empty descriptor", make: func(g *rig) { g.desc(0, 0, buf, 0, w, 0) }, size: 0, segs: 0},
		{name: "empty descriptor nowhere", make: func(g *rig) { g.desc(0, 0, 12, 0, w, 0) }, size: 0, segs: 0},
		{name: "next out of range (CVE-2020-10722)", make: func(g *rig) { g.desc(0, 0, buf, 10, w|n, 8) }, err: ErrChain},
		{name: "next 65535 (CVE-2020-10726)", make: func(g *rig) { g.desc(0, 0, buf, 10, w|n, 65535) }, err: ErrChain},
		{name: "next of the last entry", make: func(g *rig) { g.desc(0, 0, buf, 10, w|n, 7); g.desc(0, 7, buf, 10, w, 0) }, size: 20, segs: 2},
		{name: "loop of one (CVE-2026-86847)", make: func(g *rig) { g.desc(0, 0, buf, 10, w|n, 0) }, err: ErrChain},
		{name: "loop of two (CVE-2026-86847)", make: func(g *rig) { g.desc(0, 0, buf, 10, w|n, 1); g.desc(0, 1, buf, 10, w|n, 0) }, err: ErrChain},
		{name: "loop of empty descriptors (CVE-2026-86847)", make: func(g *rig) { g.desc(0, 0, buf, 0, w|n, 0) }, err: ErrChain},
		{name: "as long as the ring", make: func(g *rig) {
			for i := range 7 {
				g.desc(0, i, buf, 10, w|n, uint16(i+1))
			}
			g.desc(0, 7, buf, 10, w, 0)
		}, size: 80, segs: 8},
		{name: "readable where the device writes", make: func(g *rig) { g.desc(0, 0, buf, 10, 0, 0) }, err: ErrChain},
		{name: "readable behind writable", make: func(g *rig) { g.desc(0, 0, buf, 10, w|n, 1); g.desc(0, 1, buf, 10, 0, 0) }, err: ErrChain},
		{name: "writable where the device reads", make: func(g *rig) { g.desc(0, 0, buf, 10, w, 0) }, read: true, err: ErrChain},
		{name: "more bytes than any packet", make: func(g *rig) { g.desc(0, 0, buf, MaxChain+1, w, 0) }, err: ErrChain},
		{name: "more bytes than any packet, in all", make: func(g *rig) { g.desc(0, 0, buf, MaxChain, w|n, 1); g.desc(0, 1, buf, 1, w, 0) }, err: ErrChain},
		{name: "lengths that add up to 4 GiB", make: func(g *rig) {
			for i := range 7 {
				g.desc(0, i, buf, 1<<31, w|n, uint16(i+1))
			}
			g.desc(0, 7, buf, 1<<31, w, 0)
		}, err: ErrChain},
		{name: "more segments than there is room for", make: func(g *rig) {
			for i := range 31 {
				g.desc(0, i, buf, 1, w|n, uint16(i+1))
			}
			g.desc(0, 31, buf, 1, w, 0)
		}, ring: 32, err: ErrChain},
		{name: "indirect", make: func(g *rig) {
			g.desc(0, 0, guestBase+tableAt, 32, ind, 0)
			g.desc(tableAt, 0, buf, 10, w|n, 1)
			g.desc(tableAt, 1, buf, 20, w, 0)
		}, size: 30, segs: 2},
		{name: "indirect, marked writable", make: func(g *rig) {
			g.desc(0, 0, guestBase+tableAt, 16, ind|w, 0)
			g.desc(tableAt, 0, buf, 10, w, 0)
		}, size: 10, segs: 1},
		{name: "indirect that was not negotiated", make: func(g *rig) {
			g.desc(0, 0, guestBase+tableAt, 16, ind, 0)
			g.desc(tableAt, 0, buf, 10, w, 0)
		}, flat: true, err: ErrChain},
		{name: "indirect table of length 0 (a Go ring library)", make: func(g *rig) { g.desc(0, 0, guestBase+tableAt, 0, ind, 0) }, err: ErrChain},
		{name: "indirect table of 15 bytes", make: func(g *rig) { g.desc(0, 0, guestBase+tableAt, 15, ind, 0) }, err: ErrChain},
		{name: "indirect table of 17 bytes", make: func(g *rig) { g.desc(0, 0, guestBase+tableAt, 17, ind, 0) }, err: ErrChain},
		{name: "indirect table longer than the ring", make: func(g *rig) { g.desc(0, 0, guestBase+tableAt, 9*16, ind, 0) }, err: ErrChain},
		{name: "indirect table of 4 GiB", make: func(g *rig) { g.desc(0, 0, guestBase+tableAt, 0xfffffff0, ind, 0) }, err: ErrChain},
		{name: "indirect table outside memory", make: func(g *rig) { g.desc(0, 0, 0x1000, 16, ind, 0) }, err: ErrAddress},
		{name: "indirect table that leaves memory", make: func(g *rig) { g.desc(0, 0, guestBase+memSize-16, 32, ind, 0) }, err: ErrAddress},
		{name: "indirect table over the seam", make: func(g *rig) { g.desc(0, 0, buf+0x7f0, 32, ind, 0) }, err: ErrAddress},
		{name: "indirect inside indirect", make: func(g *rig) {
			g.desc(0, 0, guestBase+tableAt, 16, ind, 0)
			g.desc(tableAt, 0, guestBase+tableAt+64, 16, ind, 0)
			g.desc(tableAt+64, 0, buf, 10, w, 0)
		}, err: ErrChain},
		{name: "the ring's own table as the indirect one", make: func(g *rig) { g.desc(0, 0, guestBase+descAt, 8*16, ind, 0) }, err: ErrChain},
		{name: "the ring's own table as the indirect one, a plain descriptor first", make: func(g *rig) {
			g.desc(0, 0, buf, 10, w, 0)
			g.desc(0, 1, guestBase+descAt, 8*16, ind, 0)
			g.put16(availAt+4, 1)
		}, size: 10, segs: 1},
		{name: "indirect with next", make: func(g *rig) {
			g.desc(0, 0, guestBase+tableAt, 16, ind|n, 1)
			g.desc(tableAt, 0, buf, 10, w, 0)
			g.desc(0, 1, buf, 10, w, 0)
		}, err: ErrChain},
		{name: "indirect behind a plain descriptor", make: func(g *rig) {
			g.desc(0, 0, buf, 10, w|n, 1)
			g.desc(0, 1, guestBase+tableAt, 16, ind, 0)
			g.desc(tableAt, 0, buf, 20, w, 0)
		}, size: 30, segs: 2},
		{name: "more bytes than any packet needs, part of them indirect", make: func(g *rig) {
			g.desc(0, 0, buf, MaxChain/2, w|n, 1)
			g.desc(0, 1, guestBase+tableAt, 16, ind, 0)
			g.desc(tableAt, 0, buf, MaxChain/2+1, w, 0)
		}, err: ErrChain},
		{name: "next out of the indirect table", make: func(g *rig) {
			g.desc(0, 0, guestBase+tableAt, 16, ind, 0)
			g.desc(tableAt, 0, buf, 10, w|n, 1)
		}, err: ErrChain},
		{name: "loop in the indirect table", make: func(g *rig) {
			g.desc(0, 0, guestBase+tableAt, 32, ind, 0)
			g.desc(tableAt, 0, buf, 10, w|n, 1)
			g.desc(tableAt, 1, buf, 10, w|n, 0)
		}, err: ErrChain},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newRig(t, Config{Size: max(c.ring, 8), Write: !c.read, Indirect: !c.flat})
			// Good descriptors stand wherever a careless device would look.
			for i := range 16 {
				g.desc(tableAt, i, buf, 10, w, 0)
				if c.ring == 0 {
					g.desc(0, i, buf, 10, w, 0)
				}
			}
			c.make(g)
			head := g.get16(availAt + 4)
			g.avail(head)
			iov := make([]unix.Iovec, 0, 16)
			got, out, size, err := g.take(iov)
			if !errors.Is(err, c.err) || got != head {
				t.Fatalf("head %d, %v; want head %d, %v", got, err, head, c.err)
			}
			if c.err != nil && !errors.Is(err, ErrChain) {
				t.Fatalf("%v is not ErrChain: the ring would stop", err)
			}
			if size != c.size || len(out) != c.segs {
				t.Fatalf("%d bytes in %d segments, want %d in %d", size, len(out), c.size, c.segs)
			}
			g.inside(out)
			g.r.Complete(got, 0)
			// The next chain is a good one.
			good := uint16(w)
			if c.read {
				good = 0
			}
			g.desc(0, 5, guestBase+bufferAt, 77, good, 0)
			g.avail(5)
			if got, out, size, err := g.take(iov); err != nil || got != 5 || size != 77 || len(out) != 1 {
				t.Fatalf("the chain behind: head %d, %d bytes in %d segments, %v", got, size, len(out), err)
			}
			g.r.Complete(5, 77)
			g.r.Show()
			if n := g.usedIdx(); n != g.next {
				t.Fatalf("used index %d, want %d", n, g.next)
			}
			if id, size := g.used(g.next - 2); id != uint32(head) || size != 0 {
				t.Fatalf("head %d came back with length %d, want %d with 0", id, size, head)
			}
		})
	}
}

// take is Waiting and Take as a device uses them.
func (g *rig) take(iov []unix.Iovec) (uint16, []unix.Iovec, int, error) {
	n, err := g.r.Waiting()
	if err != nil {
		return 0, nil, 0, err
	}
	if n == 0 {
		g.t.Fatal("nothing waits")
	}
	return g.r.Take(iov)
}

// A head or an avail index out of range breaks only the ring.
func TestBrokenRing(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(*rig)
	}{
		{"head of the ring's size (CVE-2026-86846)", func(g *rig) { g.avail(8) }},
		{"head 65535 (CVE-2020-10723)", func(g *rig) { g.avail(65535) }},
		{"avail index jumps by one too many (rust-vmm 196)", func(g *rig) { g.idx(g.next + 9) }},
		{"avail index jumps far (Firecracker 3149)", func(g *rig) { g.idx(g.next + 32768) }},
		{"avail index goes back", func(g *rig) { g.idx(g.next - 1) }},
		{"avail index jumps with heads out", func(g *rig) {
			g.desc(0, 0, guestBase+bufferAt, 1, descWrite, 0)
			g.avail(0)
			if _, _, _, err := g.take(make([]unix.Iovec, 0, 4)); err != nil {
				g.t.Fatal(err)
			}
			g.idx(g.next + 8) // 8 more, with one out already
		}},
	} {
		for _, base := range []int{0, 65535, 65530} {
			g := newRig(t, Config{Write: true, Base: base})
			c.make(g)
			n, err := g.r.Waiting()
			if err == nil && n > 0 {
				_, _, _, err = g.r.Take(make([]unix.Iovec, 0, 4))
			}
			if !errors.Is(err, ErrBroken) {
				t.Errorf("%s at %d: %v, want ErrBroken", c.name, base, err)
			}
		}
	}
	g := newRig(t, Config{Write: true})
	g.idx(g.next + 8)
	if n, err := g.r.Waiting(); n != 8 || err != nil {
		t.Errorf("a full ring: %d, %v", n, err)
	}
}

// Ring size and place (CVE-2026-86565; "size everything from one place").
func TestNewRefuses(t *testing.T) {
	g := newRig(t, Config{})
	low, err := NewMemory(Region{Guest: 0, User: 0, Size: memSize, Host: unsafe.Pointer(&g.mem[0])})
	if err != nil {
		t.Fatal(err)
	}
	ok := Config{Size: 8, Desc: userBase + descAt, Avail: userBase + availAt, Used: userBase + usedAt}
	for _, c := range []struct {
		name   string
		change func(*Config)
		good   bool
	}{
		{"as it should be", func(c *Config) {}, true},
		{"size 0", func(c *Config) { c.Size = 0 }, false},
		{"size -8", func(c *Config) { c.Size = -8 }, false},
		{"size 6", func(c *Config) { c.Size = 6 }, false},
		{"size 65536", func(c *Config) { c.Size = 65536 }, false},
		{"size 1", func(c *Config) { c.Size = 1 }, true},
		{"desc not aligned", func(c *Config) { c.Desc += 8 }, false},
		{"avail not aligned", func(c *Config) { c.Avail++ }, false},
		{"avail aligned to 2", func(c *Config) { c.Avail += 2 }, true},
		{"used not aligned", func(c *Config) { c.Used += 2 }, false},
		{"desc in guest addresses", func(c *Config) { c.Desc = guestBase }, false},
		{"desc wraps", func(c *Config) { c.Desc = ^uint64(15) }, false},
		{"desc over the seam", func(c *Config) { c.Desc = userBase + bufferAt + 0x7f0 }, false},
		{"avail leaves memory", func(c *Config) { c.Avail = userBase + memSize - 20 }, false},
		{"avail ends with memory", func(c *Config) { c.Avail = userBase + memSize - 22 }, true},
		{"used leaves memory", func(c *Config) { c.Used = userBase + memSize - 64 }, false},
	} {
		cfg := ok
		c.change(&cfg)
		if _, err := New(g.m, cfg); (err == nil) != c.good {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.good || c.name == "desc over the seam" {
			continue
		}
		// From address 0 on, the end of a bad range may wrap into it.
		cfg.Desc, cfg.Avail, cfg.Used = cfg.Desc-userBase, cfg.Avail-userBase, cfg.Used-userBase
		if c.name == "desc wraps" {
			cfg.Desc = ^uint64(15)
		}
		if _, err := New(low, cfg); err == nil {
			t.Errorf("%s, from address 0 on: taken", c.name)
		}
	}
}
