package firmware

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/internal/newc"
)

// tinyELF returns an ELF file for amd64 with at most one interpreter and one .modinfo section.
func tinyELF(t testing.TB, interp bool, modinfo string) []byte {
	t.Helper()
	const ehsize, phsize, shsize = 64, 56, 64
	names := "\x00.modinfo\x00.shstrtab\x00"
	phnum := 0
	if interp {
		phnum = 1
	}
	body := ehsize + phnum*phsize
	var b bytes.Buffer
	put := func(v any) {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	put(elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1,
		Phoff: ehsize, Shoff: uint64(body + len(modinfo) + len(names)),
		Ehsize: ehsize, Phentsize: phsize, Phnum: uint16(phnum), Shentsize: shsize, Shnum: 3, Shstrndx: 2,
	})
	if interp {
		put(elf.Prog64{Type: uint32(elf.PT_INTERP)})
	}
	b.WriteString(modinfo + names)
	put(elf.Section64{})
	put(elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: uint64(body), Size: uint64(len(modinfo))})
	put(elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(body + len(modinfo)), Size: uint64(len(names))})
	return b.Bytes()
}

// bzImageOf wraps a payload as the kernel's build does.
func bzImageOf(payload []byte) []byte {
	const setupSects, offset = 2, 100
	b := make([]byte, (setupSects+1)*sector+offset)
	b[offSetupSects] = setupSects
	copy(b[offHeader:], "HdrS")
	binary.LittleEndian.PutUint16(b[offVersion:], 0x020f)
	binary.LittleEndian.PutUint32(b[offPayloadOffset:], offset)
	binary.LittleEndian.PutUint32(b[offPayloadLength:], uint32(len(payload)))
	return append(append(b, payload...), "trailing"...)
}

func zstdOf(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return binary.LittleEndian.AppendUint32(w.EncodeAll(b, nil), uint32(len(b)))
}

func gzipOf(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestVmlinux(t *testing.T) {
	kernel := tinyELF(t, false, strings.Repeat("kernel", 1000))
	for name, payload := range map[string][]byte{"zstd": zstdOf(t, kernel), "gzip": gzipOf(t, kernel)} {
		got, err := vmlinux(context.Background(), bzImageOf(payload))
		if err != nil || !bytes.Equal(got, kernel) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(kernel), err)
		}
	}
}

func TestVmlinuxRefuses(t *testing.T) {
	good := bzImageOf(zstdOf(t, tinyELF(t, false, "")))
	with := func(at int, v uint32) []byte {
		b := bytes.Clone(good)
		binary.LittleEndian.PutUint32(b[at:], v)
		return b
	}
	tests := map[string][]byte{
		"empty":               nil,
		"no header":           make([]byte, 4096),
		"old protocol":        func() []byte { b := bytes.Clone(good); b[offVersion] = 7; return b }(),
		"payload outside":     with(offPayloadOffset, 1<<31),
		"payload wraps":       with(offPayloadLength, 0xffffffff),
		"payload empty":       with(offPayloadLength, 0),
		"payload cut":         with(offPayloadLength, 20),
		"unknown compression": bzImageOf([]byte("BZh91AY")),
		"one byte":            bzImageOf([]byte("x")),
		"no ELF within":       bzImageOf(zstdOf(t, []byte("not a kernel"))),
	}
	for name, b := range tests {
		if _, err := vmlinux(context.Background(), b); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func FuzzPayload(f *testing.F) {
	f.Add(bzImageOf([]byte("payload")))
	f.Add([]byte{})
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = payloadOf(b)
		_, _ = parseModule(b)
		_, _ = busyboxApplets(b)
	})
}

func testTree(t testing.TB) *moduleTree {
	ko := func(info string) []byte { return tinyELF(t, false, info) }
	files := map[string][]byte{
		"modules.builtin": []byte("kernel/drivers/virtio/virtio_pci.ko\nkernel/crypto/ccm.ko\n"),
		"kernel/a.ko":     ko("depends=b-b,c\x00alias=net-pf-1\x00alias=pci:v*\x00"),
		"kernel/b-b.ko":   ko("depends=c\x00"),
		"kernel/c.ko":     ko("depends=\x00"),
		"kernel/loop1.ko": ko("depends=loop2\x00"),
		"kernel/loop2.ko": ko("depends=loop1\x00"),
		"kernel/odd.ko":   ko("depends=gone\x00"),
		"kernel/z.ko.zst": nil,
	}
	return newModuleTree("6.12.9", files)
}

func TestPickOrdersDependencies(t *testing.T) {
	tests := []struct {
		want  []string
		names []string
		err   string
	}{
		{names: []string{"a"}, want: []string{"c", "b_b", "a"}},
		{names: []string{"b_b", "a", "a"}, want: []string{"c", "b_b", "a"}},
		{names: []string{"virtio-pci"}},
		{names: []string{"loop1"}, want: []string{"loop2", "loop1"}},
		{names: []string{"sha256_generic"}},
		{names: []string{"missing"}, err: "module missing, needed by a card"},
		{names: []string{"odd"}, err: "module gone, needed by odd"},
		{names: []string{"z"}, err: "only .ko and .ko.xz"},
	}
	for _, tt := range tests {
		picked, err := testTree(t).pick(context.Background(), tt.names)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%v: error %v, want %q", tt.names, err, tt.err)
			}
			continue
		}
		var got []string
		for _, m := range picked {
			got = append(got, m.name)
		}
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%v: picked %v, %v; want %v", tt.names, got, err, tt.want)
		}
	}
}

func TestModuleIndexes(t *testing.T) {
	tree := testTree(t)
	all, err := tree.pick(context.Background(), []string{"a"})
	if err != nil {
		t.Fatal(err)
	}
	dep, alias := tree.indexes(all)
	if want := "kernel/c.ko:\nkernel/b-b.ko: kernel/c.ko\nkernel/a.ko: kernel/b-b.ko kernel/c.ko\n"; string(dep) != want {
		t.Errorf("modules.dep:\n%s, want:\n%s", dep, want)
	}
	if want := "alias net-pf-1 a\nalias pci:v* a\n"; string(alias) != want {
		t.Errorf("modules.alias: %q, want %q", alias, want)
	}
}

func TestBusyboxApplets(t *testing.T) {
	list := "[\x00[[\x00ash\x00ip\x00modprobe\x00mount\x00ps\x00sh\x00vi\x00"
	tests := []struct{ program, last, err string }{
		{"junk [\x00" + list + "\x01code", "vi", ""},
		{"junk " + list + "abc\x00", "vi", ""}, // not in order: no applet
		{"junk", "", "no list"},
		{"[\x00[[\x00ash\x00", "", "lacks ip"},
	}
	for _, tt := range tests {
		names, err := busyboxApplets([]byte(tt.program))
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%q: error %v, want %q", tt.program, err, tt.err)
			}
			continue
		}
		if err != nil || names[len(names)-1] != tt.last {
			t.Errorf("%q: %v, %v", tt.program, names, err)
		}
	}
}

func testBase(t testing.TB) *base {
	busybox := append(tinyELF(t, false, ""), "[\x00[[\x00ash\x00ip\x00modprobe\x00mount\x00ps\x00sh\x00vi\x00"...)
	return &base{
		kernel: []byte("kernel"), release: "6.12.9+deb13", busybox: busybox,
		modules:  []newc.File{newc.Regular("/lib/modules/load.list", 0o644, nil)},
		packages: []Package{{Name: "b"}, {Name: "a"}},
	}
}

func TestMicroInitramfs(t *testing.T) {
	b, err := microInitramfs(testBase(t), []byte("agent"))
	if err != nil {
		t.Fatal(err)
	}
	names, data := unpackArchives(t, b)
	seen := map[string]bool{".": true}
	for _, name := range names {
		if seen[name] && name != "." {
			t.Errorf("%s is there twice", name)
		}
		if parent, _, ok := cutLast(name); ok && !seen[parent] {
			t.Errorf("%s comes before its directory", name)
		}
		seen[name] = true
	}
	if data["init"] != "agent" || data["bin/vi"] != "busybox" || !seen["dev/console"] || !seen["dev/null"] {
		t.Errorf("init %q, vi → %q; entries %v", data["init"], data["bin/vi"], slices.Sorted(maps.Keys(seen)))
	}
}

func cutLast(name string) (dir, base string, ok bool) {
	at := strings.LastIndex(name, "/")
	if at < 0 {
		return "", name, false
	}
	return name[:at], name[at+1:], true
}

func TestAssembleIsReproducible(t *testing.T) {
	var images [][]byte
	for range 2 {
		o := Options{Edition: Micro, Target: QEMU, Arch: "amd64", CacheDir: t.TempDir()}
		img, err := assemble(o, testBase(t), []byte("agent"), nil)
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, readFile(t, img.Path))
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("the same base and agent gave different bytes")
	}
}

func TestCheckStatic(t *testing.T) {
	if err := checkStatic(tinyELF(t, false, ""), "amd64"); err != nil {
		t.Error(err)
	}
	for name, program := range map[string][]byte{"script": []byte("#!/bin/sh"), "dynamic": tinyELF(t, true, "")} {
		if checkStatic(program, "amd64") == nil {
			t.Errorf("%s was taken for a static program", name)
		}
	}
	if checkStatic(tinyELF(t, false, ""), "arm64") == nil {
		t.Error("an amd64 program was taken for arm64")
	}
}

func TestPickSeries(t *testing.T) {
	names := []string{"linux-source-6.12", "linux-source-7.2", "linux-source-7.10", "linux-source-7.3", "linux-source-7.3-extra"}
	tests := []struct{ pinned, want, err string }{
		{"", "7.10", ""},
		{"7.2", "7.2", ""},
		{"7.4", "", "no linux-source-7.4"},
		{"6.12", "", "AMX"},
		{"newest", "", "want X.Y"},
	}
	for _, tt := range tests {
		got, err := pickSeries(names, tt.pinned)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%q: error %v, want %q", tt.pinned, err, tt.err)
			}
		} else if err != nil || got.String() != tt.want {
			t.Errorf("%q: %v, %v; want %s", tt.pinned, got, err, tt.want)
		}
	}
	if _, err := pickSeries(names[:1], ""); err == nil {
		t.Error("6.12 alone was taken")
	}
}

func TestCheckConfig(t *testing.T) {
	got := "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x\"\n"
	if err := checkConfig(&recipe{config: []byte("# comment\nCONFIG_A=y\nCONFIG_C=\"x\"\nCONFIG_D=n\n")}, []byte(got)); err != nil {
		t.Error(err)
	}
	err := checkConfig(&recipe{config: []byte("CONFIG_A=y\nCONFIG_B=y\nCONFIG_E=y\nCONFIG_C=\"y\"\n")}, []byte(got))
	for _, want := range []string{"CONFIG_B=y is n", "CONFIG_E=y is n", `CONFIG_C="y" is "x"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q in it", err, want)
		}
	}
}

func TestOwnConfigIsWellFormed(t *testing.T) {
	seen := map[string]bool{}
	for line := range strings.Lines(string(umlConfig)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, _, ok := strings.Cut(line, "=")
		if !ok || !strings.HasPrefix(name, "CONFIG_") || seen[name] {
			t.Errorf("line %q is no option, or is there twice", line)
		}
		seen[name] = true
	}
}

func TestNeededSources(t *testing.T) {
	for name, want := range map[string]struct{ wanted, empty bool }{
		"kernel/fork.c": {true, false}, "arch/um/Kconfig": {true, false}, "arch/x86/um/x.c": {true, false},
		"arch/arm64/mm/init.c": {false, false}, "arch/arm64/Kconfig": {true, false}, "arch/Kconfig": {true, false},
		"drivers/gpu/drm/x.c": {false, true}, "drivers/gpu/drm/Kconfig": {true, false},
		"drivers/gpu/Makefile": {true, true}, "drivers/gpu/drm/Makefile": {true, true},
		"drivers/net/virtio_net.c": {true, false}, "drivers/net/Makefile": {true, false}, "fs/ext4/super.c": {true, false},
	} {
		if wanted, empty := umlRecipe.needed(name); wanted != want.wanted || wanted && empty != want.empty {
			t.Errorf("needed(%s) is %v, %v", name, wanted, empty)
		}
	}
}

// An option whose sources are not unpacked is refused by name.
func TestCheckSources(t *testing.T) {
	tree := t.TempDir()
	for name, text := range map[string]string{
		"drivers/mmc/Kconfig":       "config MMC\n\ttristate \"MMC\"\n",
		"drivers/mmc/sub/Kconfig.x": "\tmenuconfig MMC_SUB\n",
		"drivers/net/Kconfig":       "config TUN\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(tree, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(tree, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := checkSources(tree, &recipe{config: []byte("CONFIG_TUN=y\n# CONFIG_MMC is not set\n")}); err != nil {
		t.Error(err)
	}
	err := checkSources(tree, &recipe{config: []byte("CONFIG_MMC=y\nCONFIG_MMC_SUB=y\nCONFIG_TUN=y\n")})
	if err == nil || !strings.Contains(err.Error(), "CONFIG_MMC is in drivers/mmc/\n  CONFIG_MMC_SUB is in") {
		t.Errorf("error %v", err)
	}
}

func hashOf(config []byte) string { return (&recipe{version: "1", config: config}).hash() }

// A comment in the configuration must not cause a rebuild.
func TestConfigHash(t *testing.T) {
	one := hashOf([]byte("CONFIG_A=y\n# CONFIG_B is not set\n"))
	if same := hashOf([]byte("# why\n\nCONFIG_A=y\n\t# CONFIG_B is not set\n")); same != one {
		t.Error("a comment changes the hash")
	}
	for _, other := range []string{"CONFIG_A=y\n", "CONFIG_A=n\n# CONFIG_B is not set\n"} {
		if hashOf([]byte(other)) == one {
			t.Errorf("%q has the hash of another configuration", other)
		}
	}
}

func TestNeedTools(t *testing.T) {
	if err := needTools(map[string]string{"sh": "dash"}); err != nil {
		t.Error(err)
	}
	err := needTools(map[string]string{"no-such-program-1": "one", "no-such-program-2": "two", "no-such-program-3": "one"})
	if !errors.Is(err, ErrTools) || !strings.Contains(err.Error(), "fix: apt-get install one two") {
		t.Errorf("error %v", err)
	}
}

func TestOptionsRefused(t *testing.T) {
	foreign := "s390x"
	if arch.Host().Name == foreign {
		foreign = "riscv64"
	}
	for name, c := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"edition":      {func(o *Options) { o.Edition = "huge" }, `firmware edition "huge": want one of`},
		"target":       {func(o *Options) { o.Target = "moon" }, `firmware machine "moon": want "qemu" or "uml"`},
		"arch":         {func(o *Options) { o.Arch = "vax" }, `architecture "vax": want one of [amd64 arm64`},
		"another name": {func(o *Options) { o.Arch = "aarch64" }, `did you mean "arm64"?`},
		"uml, foreign": {func(o *Options) { o.Arch, o.Target = foreign, UML }, "architecture " + foreign + ": User-Mode Linux runs only on the host's"},
		"nano":         {func(o *Options) { o.Arch, o.Edition = "s390x", Nano }, "want machine qemu and architecture riscv64"},
		"kernel":       {func(o *Options) { o.Kernel = "7.2" }, "only machine uml has a choice of kernels"},
		"cache":        {func(o *Options) { o.CacheDir = "relative" }, `cache directory "relative": want an absolute path`},
	} {
		o := Options{CacheDir: "/tmp", AgentPath: "/agent", Arch: arch.Host().Name}
		c.change(&o)
		if _, err := o.normal(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
