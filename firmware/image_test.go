package firmware

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/toe-project/toe/machine"
)

var testKernel, testInitramfs = []byte("a kernel"), bytes.Repeat([]byte("i"), 1000)

var testContents = []content{{name: kernelName, data: testKernel}, {name: initramfsName, data: testInitramfs}}

func testManifest() Manifest {
	return describe(Manifest{
		Edition: Micro, Arch: "amd64", Target: QEMU, Kernel: "6.12.9+deb13-cloud-amd64",
		Agent:    agentOf([]byte("agent " + versionMark + "1.2.3;")),
		Packages: []Package{{Name: "busybox-static"}, {Name: "a-kernel"}},
	}, testContents)
}

func testImage(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := pack(&b, testManifest(), testContents); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func read(b []byte) (*Manifest, error) {
	m, _, err := readImage(bytes.NewReader(b), int64(len(b)), func(Member, io.Reader) error { return nil })
	return m, err
}

func TestImageRoundTrip(t *testing.T) {
	m, err := read(testImage(t))
	if err != nil {
		t.Fatal(err)
	}
	if m.Version[:7] != "6.12.9-" || len(m.Machines) != 2 || m.Packages[0].Name != "a-kernel" {
		t.Errorf("manifest %+v", m)
	}
	if !bytes.Equal(testImage(t), testImage(t)) {
		t.Error("two images of the same contents differ")
	}
}

// tarOf writes an arbitrary, possibly hostile tar.
func tarOf(t testing.TB, hdrs []tar.Header, bodies [][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := range hdrs {
		if err := w.WriteHeader(&hdrs[i]); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(bodies[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// altered returns a well-formed tar of an image's members as changed by f.
func altered(t *testing.T, f func(m *Manifest, h []tar.Header)) []byte {
	m := testManifest()
	h := []tar.Header{{Name: manifestName}, {Name: kernelName}, {Name: initramfsName}}
	bodies := [][]byte{nil, testKernel, testInitramfs}
	f(&m, h)
	text, err := m.encode()
	if err != nil {
		t.Fatal(err)
	}
	bodies[0] = text
	for i := range h {
		if h[i].Typeflag == 0 {
			h[i].Typeflag = tar.TypeReg
		}
		if h[i].Typeflag != tar.TypeReg {
			bodies[i] = nil
		}
		h[i].Size, h[i].Mode, h[i].Format = int64(len(bodies[i])), 0o644, tar.FormatUSTAR
	}
	return tarOf(t, h, bodies)
}

func TestHostileImages(t *testing.T) {
	good := testImage(t)
	flip := func(at int) []byte {
		b := bytes.Clone(good)
		b[at] ^= 1
		return b
	}
	tests := map[string]struct {
		image []byte
		says  string // to a user
	}{
		"empty":                 {nil, "ends before member manifest.json"},
		"no tar":                {bytes.Repeat([]byte("x"), 4096), "no tar that begins with member manifest.json"},
		"cut short":             {good[:len(good)-2048], "3072 bytes long, the manifest says 5120"},
		"cut in the manifest":   {good[:700], "manifest.json: unexpected EOF"},
		"something behind":      {append(bytes.Clone(good), make([]byte, 512)...), "5632 bytes long"},
		"two images":            {append(bytes.Clone(good), good...), "10240 bytes long"},
		"kernel changed":        {flip(bytes.Index(good, testKernel)), "member kernel has SHA-256"},
		"initramfs changed":     {flip(bytes.LastIndex(good, []byte("ii"))), "member initramfs has SHA-256"},
		"traversal":             {altered(t, func(_ *Manifest, h []tar.Header) { h[1].Name = "../kernel" }), "member \"../kernel\" of type"},
		"absolute":              {altered(t, func(_ *Manifest, h []tar.Header) { h[1].Name = "/kernel" }), "member \"/kernel\" of type"},
		"traversal in both":     {altered(t, func(m *Manifest, h []tar.Header) { h[1].Name, m.Members[0].Name = "../k", "../k" }), "member \"../k\": the name does not match"},
		"members swapped":       {altered(t, func(_ *Manifest, h []tar.Header) { h[1].Name, h[2].Name = h[2].Name, h[1].Name }), "member \"initramfs\" of type"},
		"member twice":          {altered(t, func(m *Manifest, h []tar.Header) { h[2].Name, m.Members[1] = kernelName, m.Members[0] }), "member kernel is listed twice"},
		"initramfs missing":     {altered(t, func(m *Manifest, h []tar.Header) { h[2].Name, m.Members[1].Name = "other", "other" }), "no member initramfs"},
		"symbolic link":         {altered(t, func(_ *Manifest, h []tar.Header) { h[1].Typeflag, h[1].Linkname = tar.TypeSymlink, "/etc/passwd" }), "4608 bytes long"},
		"hard link":             {altered(t, func(_ *Manifest, h []tar.Header) { h[1].Typeflag, h[1].Linkname = tar.TypeLink, manifestName }), "4608 bytes long"},
		"device":                {altered(t, func(_ *Manifest, h []tar.Header) { h[1].Typeflag = tar.TypeChar }), "4608 bytes long"},
		"size lies":             {altered(t, func(m *Manifest, _ []tar.Header) { m.Members[0].Size++ }), "member kernel has 8 bytes, the manifest says 9"},
		"size is huge":          {altered(t, func(m *Manifest, _ []tar.Header) { m.Members[0].Size = 1 << 62 }), "size 4611686018427387904, want 1 to"},
		"size is negative":      {altered(t, func(m *Manifest, _ []tar.Header) { m.Members[0].Size = -1 }), "size -1, want 1 to"},
		"hash is no hash":       {altered(t, func(m *Manifest, _ []tar.Header) { m.Members[0].SHA256 = "00" }), "sha256 \"00\": want 64 hexadecimal digits"},
		"no members":            {altered(t, func(m *Manifest, _ []tar.Header) { m.Members = nil }), "no member kernel"},
		"format of the future":  {altered(t, func(m *Manifest, _ []tar.Header) { m.Format = Format + 1 }), "format 3, this toe reads formats 1 to 2"},
		"format zero":           {altered(t, func(m *Manifest, _ []tar.Header) { m.Format = 0 }), "format 0, this toe reads"},
		"too many members":      {altered(t, func(m *Manifest, _ []tar.Header) { m.Members = append(m.Members, make([]Member, maxMembers)...) }), "66 members, want at most 64"},
		"member is hidden":      {altered(t, func(m *Manifest, h []tar.Header) { h[1].Name, m.Members[0].Name = ".kernel", ".kernel" }), "member \".kernel\": the name"},
		"agent version escapes": {altered(t, func(m *Manifest, _ []tar.Header) { m.Agent.Version = "\x1b[2J" }), "agent version \"\\x1b[2J\": want a version"},
		"edition with a path":   {altered(t, func(m *Manifest, _ []tar.Header) { m.Edition = "../x" }), "edition \"../x\": want a lower-case word"},
		"version with a path":   {altered(t, func(m *Manifest, _ []tar.Header) { m.Version = "a/b" }), "version \"a/b\": want a version"},
		"kernel with an escape": {altered(t, func(m *Manifest, _ []tar.Header) { m.Kernel = "\x1b[2J" }), "kernel \"\\x1b[2J\": want a version"},
		"agent is no hash":      {altered(t, func(m *Manifest, _ []tar.Header) { m.Agent.SHA256 = "" }), "agent sha256 \"\": want 64"},
		"manifest not first":    {altered(t, func(_ *Manifest, h []tar.Header) { h[0].Name, h[1].Name = h[1].Name, h[0].Name }), "want the regular file manifest.json"},
	}
	for name, c := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := read(c.image)
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want ErrInvalid and %q", err, c.says)
			}
		})
	}
}

// No member with a bit flipped is accepted. What else passes is text of the manifest, such as the name
// of a package, and bytes of the tar that nothing reads. A bundle's signature covers those, too.
func TestFlippedBits(t *testing.T) {
	good := testImage(t)
	passed := 0
	for at := range good {
		bad := bytes.Clone(good)
		bad[at] ^= 1 << (at % 8)
		all := sha256.New()
		_, _, err := readImage(bytes.NewReader(bad), int64(len(bad)), func(_ Member, r io.Reader) error {
			_, err := io.Copy(all, r)
			return err
		})
		switch {
		case err != nil && !errors.Is(err, ErrInvalid):
			t.Errorf("byte %d: %v, want ErrInvalid", at, err)
		case err == nil && !bytes.Equal(all.Sum(nil), sumOf(testKernel, testInitramfs)):
			t.Errorf("byte %d: an image with other contents is accepted", at)
		case err == nil:
			passed++
		}
	}
	if passed > len(good)/2 {
		t.Errorf("%d of %d flipped bits were not seen", passed, len(good))
	}
}

func sumOf(parts ...[]byte) []byte {
	h := sha256.New()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

func TestHostileManifests(t *testing.T) {
	m := testManifest()
	good, err := m.encode()
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]string{
		"second document": string(good) + "{}",
		"no JSON":         "manifest",
		"wrong type":      strings.Replace(string(good), `"format": 2`, `"format": "2"`, 1),
		"empty":           "",
	}
	for name, text := range tests {
		if _, err := parseManifest([]byte(text)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: error %v, want ErrInvalid", name, err)
		}
	}
}

// files are the unpacked files of an image, in use until the end of the test.
func files(t testing.TB, img *Image) *Files {
	t.Helper()
	f, err := img.Files(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestStoreFindAndFiles(t *testing.T) {
	cache := t.TempDir()
	if _, err := Find(cache, Micro, machine.KVM, "amd64"); !errors.Is(err, ErrNotBuilt) {
		t.Fatalf("empty cache: %v, want ErrNotBuilt", err)
	}
	m := testManifest()
	if _, err := store(cache, m, testContents); err != nil {
		t.Fatal(err)
	}
	img, err := Find(cache, Micro, machine.TCG, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Find(cache, Micro, machine.UML, "amd64"); !errors.Is(err, ErrNotBuilt) {
		t.Errorf("uml: %v, want ErrNotBuilt", err)
	}
	for range 2 {
		f := files(t, img)
		for path, want := range map[string][]byte{f.Kernel: testKernel, f.Initrd: testInitramfs} {
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes, %v", path, len(got), err)
			}
		}
	}
	left, err := filepath.Glob(filepath.Join(cache, "firmware", "files", "*", ".unpacking*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if got, err := Open(img.Path, cache); err != nil || got.Version != img.Version {
		t.Errorf("Open: %v", err)
	}
}

func TestFilesRefusesADamagedImage(t *testing.T) {
	cache := t.TempDir()
	img, err := store(cache, testManifest(), testContents)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(img.Path)
	if err != nil {
		t.Fatal(err)
	}
	b[bytes.Index(b, testKernel)] ^= 1
	if err := os.WriteFile(img.Path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := img.Files(context.Background()); !errors.Is(err, ErrInvalid) {
		t.Errorf("error %v, want ErrInvalid", err)
	}
	if err := img.Export(filepath.Join(cache, "copy")); !errors.Is(err, ErrInvalid) {
		t.Errorf("export: %v, want ErrInvalid", err)
	}
	dirs, _ := filepath.Glob(filepath.Join(cache, "firmware", "files", "*"))
	if len(dirs) != 0 {
		t.Errorf("left behind: %v", dirs)
	}
}

func TestFilesMendsADamagedDirectory(t *testing.T) {
	img, err := store(t.TempDir(), testManifest(), testContents)
	if err != nil {
		t.Fatal(err)
	}
	kernel := files(t, img).Kernel
	if err := os.Truncate(kernel, 1); err != nil {
		t.Fatal(err)
	}
	files(t, img)
	if b, _ := os.ReadFile(kernel); !bytes.Equal(b, testKernel) {
		t.Errorf("kernel is %q", b)
	}
}

func TestExportIsTheImage(t *testing.T) {
	dir := t.TempDir()
	img, err := store(dir, testManifest(), testContents)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out.tar")
	if err := img.Export(out); err != nil {
		t.Fatal(err)
	}
	a, _ := os.ReadFile(img.Path)
	b, err := os.ReadFile(out)
	if err != nil || !bytes.Equal(a, b) {
		t.Errorf("copy of %d bytes differs from image of %d: %v", len(b), len(a), err)
	}
}

func TestLockWaitsAndSaysForWhom(t *testing.T) {
	cache := t.TempDir()
	unlock, err := lockCache(context.Background(), cache, "building something", nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err = lockCache(ctx, cache, "another", nil)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "building something") {
		t.Errorf("second lock: %v", err)
	}
	unlock()
	again, err := lockCache(context.Background(), cache, "another", nil)
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestTargetOf(t *testing.T) {
	if _, err := TargetOf(machine.Fake); err == nil {
		t.Error("a fake machine has firmware")
	}
	if got, _ := TargetOf(machine.KVM); got != QEMU {
		t.Errorf("kvm boots %q", got)
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
