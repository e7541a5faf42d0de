package firmware

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/toe-project/toe/internal/apt/apttest"
	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/internal/atomicfile"
	"github.com/toe-project/toe/machine"
)

// fakeDebian is a signed archive with a kernel, its metapackage and a busybox
// of a few bytes each.
func fakeDebian(t *testing.T) (*apttest.Repo, Options) {
	t.Helper()
	if _, err := exec.LookPath("xz"); err != nil {
		t.Skip("needs the program xz")
	}
	r := apttest.New(t)
	addKernel(t, r, "6.12.9+deb13-cloud-amd64", "6.12.9-1")
	r.Add(t, apttest.Deb{Name: "busybox-static", Version: "1:1.37.0-6", Arch: "amd64",
		Files: map[string][]byte{"/usr/bin/busybox": testBase(t).busybox}})
	publish(t, r)
	agent := filepath.Join(t.TempDir(), "toe-agent")
	if err := os.WriteFile(agent, tinyELF(t, false, "agent"), 0o755); err != nil {
		t.Fatal(err)
	}
	return r, Options{CacheDir: t.TempDir(), AgentPath: agent, Arch: "amd64", Mirror: r.URI, keyring: r.Keyring}
}

func publish(t *testing.T, r *apttest.Repo) {
	t.Helper()
	for _, suite := range suitesOf("trixie", arch.Host()) {
		r.Publish(t, suite, "amd64", time.Time{})
	}
}

func addKernel(t *testing.T, r *apttest.Repo, release, version string) {
	t.Helper()
	root := "/usr/lib/modules/" + release + "/"
	files := map[string][]byte{
		"/boot/vmlinuz-" + release: bzImageOf(zstdOf(t, tinyELF(t, false, "kernel "+version))),
		root + "modules.builtin":   []byte("kernel/fs/ext4/ext4.ko\n"),
	}
	for _, name := range slices.Concat(early(arch.PCI), late, endpoint, onDemand) {
		files[root+"kernel/"+name+".ko"] = tinyELF(t, false, "depends=\x00alias="+name+"\x00")
	}
	r.Add(t, apttest.Deb{Name: "linux-image-" + release, Version: version, Arch: "amd64", Files: files})
	r.Add(t, apttest.Deb{Name: "linux-image-cloud-amd64", Version: version, Arch: "amd64",
		Depends: "linux-image-" + release + " (= " + version + ")"})
}

func TestBuildTwiceGivesTheSameBytes(t *testing.T) {
	_, o := fakeDebian(t)
	var images [][]byte
	for range 2 {
		o.CacheDir = t.TempDir()
		img, err := Build(context.Background(), o)
		if err != nil {
			t.Fatal(err)
		}
		if img, err = Open(img.Path, o.CacheDir); err != nil {
			t.Fatal(err)
		}
		if img.Kernel != "6.12.9+deb13-cloud-amd64" || len(img.Packages) != 2 {
			t.Errorf("manifest %+v", img.Manifest)
		}
		images = append(images, readFile(t, img.Path))
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("two builds from the same packages differ")
	}
}

func TestEnsureNeedsNoMirrorOnceBuilt(t *testing.T) {
	ctx := context.Background()
	r, o := fakeDebian(t)
	first, err := Ensure(ctx, machine.TCG, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(r.Dir); err != nil {
		t.Fatal(err)
	}
	again, err := Ensure(ctx, machine.KVM, o)
	if err != nil || again.Path != first.Path {
		t.Fatalf("with everything cached: %v", err)
	}
	// An image has its own copy of the agent.
	if err := os.WriteFile(o.AgentPath, tinyELF(t, false, "another agent"), 0o755); err != nil {
		t.Fatal(err)
	}
	if again, err = Ensure(ctx, machine.TCG, o); err != nil || again.Path != first.Path {
		t.Errorf("with another agent on the host: %+v, %v", again, err)
	}
	rebuilt, err := Build(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if rebuilt.Version == first.Version || rebuilt.Agent == first.Agent {
		t.Errorf("a build with another agent: version %s → %s, agent %v → %v", first.Version, rebuilt.Version, first.Agent, rebuilt.Agent)
	}
	if err := os.Remove(o.AgentPath); err != nil {
		t.Fatal(err)
	}
	if img, err := Ensure(ctx, machine.TCG, o); err != nil || img.Path != rebuilt.Path {
		t.Errorf("with no agent on the host: %v", err)
	}
}

// An image of an older or newer toe in the cache is read or rebuilt.
func TestImagesOfOtherVersions(t *testing.T) {
	ctx := context.Background()
	_, o := fakeDebian(t)
	o, err := o.normal()
	if err != nil {
		t.Fatal(err)
	}
	current := currentLink(o.CacheDir, o.Edition, o.Target, o.Arch)
	if err := os.MkdirAll(filepath.Dir(current), 0o755); err != nil {
		t.Fatal(err)
	}
	for manifest, kept := range map[string]bool{
		first:                   true,
		unknown(false):          true,
		unknown(true):           false,
		"{\"format\": 1000000}": false,
		"":                      false,
	} {
		path := filepath.Join(filepath.Dir(current), "toe-micro-amd64-qemu-other.tar")
		if err := os.WriteFile(path, imageOf(t, manifest), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := atomicfile.Symlink(filepath.Base(path), current); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadStatus(o.CacheDir); err != nil {
			t.Errorf("status: %v", err)
		}
		img, err := Ensure(ctx, machine.TCG, o)
		if err != nil || (img.Path == path) != kept {
			t.Errorf("manifest %.40q: %+v, %v; want it kept: %v", manifest, img, err, kept)
			continue
		}
		if kept && !bytes.Equal(readFile(t, files(t, img).Kernel), testKernel) {
			t.Errorf("manifest %.40q: another kernel", manifest)
		}
	}
}

func TestUpdateTakesTheNewerKernel(t *testing.T) {
	ctx := context.Background()
	r, o := fakeDebian(t)
	if _, err := Build(ctx, o); err != nil {
		t.Fatal(err)
	}
	addKernel(t, r, "6.12.10+deb13-cloud-amd64", "6.12.10-1")
	publish(t, r)
	for _, tt := range []struct {
		update bool
		want   string
	}{{false, "6.12.9+deb13-cloud-amd64"}, {true, "6.12.10+deb13-cloud-amd64"}} {
		o.Update = tt.update
		img, err := Build(ctx, o)
		if err != nil || img.Kernel != tt.want {
			t.Errorf("update %v: %+v, %v; want kernel %s", tt.update, img, err, tt.want)
		}
	}
}

// A mirror keeps a version only for some time. After that the next build takes the mirror's current
// versions instead of those of the last build.
func TestPackagesThatTheMirrorDroppedAreReplaced(t *testing.T) {
	ctx := context.Background()
	r, o := fakeDebian(t)
	if _, err := Build(ctx, o); err != nil {
		t.Fatal(err)
	}
	forget := func() {
		t.Helper()
		for _, pattern := range []string{filepath.Join(r.Dir, "pool", "*6.12.9*"), filepath.Join(o.CacheDir, "apt/amd64/archives/*.deb")} {
			files, err := filepath.Glob(pattern)
			if err != nil || len(files) == 0 {
				t.Fatalf("%s: %v, %v", pattern, files, err)
			}
			for _, f := range files {
				if err := os.Remove(f); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	addKernel(t, r, "6.12.10+deb13-cloud-amd64", "6.12.10-1")
	publish(t, r)
	forget()
	img, err := Build(ctx, o)
	if err != nil || img.Kernel != "6.12.10+deb13-cloud-amd64" {
		t.Fatalf("%+v, %v; want the kernel that the mirror has now", img, err)
	}
	if err := os.RemoveAll(filepath.Join(o.CacheDir, "apt/amd64/archives")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(r.Dir); err != nil {
		t.Fatal(err)
	}
	_, err = Build(ctx, o)
	for _, want := range []string{"fetching package linux-image-6.12.10", "package indexes (check that the mirror is reachable"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("without a mirror: %v; want %q in it", err, want)
		}
	}
}

func TestBuildFailures(t *testing.T) {
	tests := map[string]struct {
		spoil func(t *testing.T, r *apttest.Repo, o *Options)
		want  string
	}{
		"no agent": {func(_ *testing.T, _ *apttest.Repo, o *Options) { o.AgentPath = "/nonexistent/toe-agent" }, "want toe-agent beside toe"},
		"dynamic agent": {func(t *testing.T, _ *apttest.Repo, o *Options) {
			if err := os.WriteFile(o.AgentPath, tinyELF(t, true, ""), 0o755); err != nil {
				t.Fatal(err)
			}
		}, "CGO_ENABLED=0"},
		"no mirror there":   {func(_ *testing.T, _ *apttest.Repo, o *Options) { o.Mirror += "/gone" }, "mirror is reachable"},
		"bad mirror":        {func(_ *testing.T, _ *apttest.Repo, o *Options) { o.Mirror = "no url" }, "want a URL"},
		"no source for uml": {func(_ *testing.T, _ *apttest.Repo, o *Options) { o.Target = UML }, "no linux-source"},
		"newer metapackage without its kernel": {func(t *testing.T, r *apttest.Repo, _ *Options) {
			r.Add(t, apttest.Deb{Name: "linux-image-cloud-amd64", Version: "7", Arch: "amd64", Depends: "linux-image-7"})
			publish(t, r)
		}, "linux-image-7"},
		"broken kernel": {func(t *testing.T, r *apttest.Repo, _ *Options) {
			r.Add(t, apttest.Deb{Name: "linux-image-8", Version: "8", Arch: "amd64", Files: map[string][]byte{"/boot/vmlinuz-8": []byte("x")}})
			r.Add(t, apttest.Deb{Name: "linux-image-cloud-amd64", Version: "8", Arch: "amd64", Depends: "linux-image-8"})
			publish(t, r)
		}, "no setup header"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r, o := fakeDebian(t)
			tt.spoil(t, r, &o)
			_, err := Build(context.Background(), o)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q in it", err, tt.want)
			}
			if _, err := Find(o.CacheDir, Micro, machine.TCG, "amd64"); !errors.Is(err, ErrNotBuilt) {
				t.Errorf("after a failed build: %v, want ErrNotBuilt", err)
			}
		})
	}
}

func TestDamagedChoiceOfPackagesIsMadeAnew(t *testing.T) {
	ctx := context.Background()
	_, o := fakeDebian(t)
	if _, err := Build(ctx, o); err != nil {
		t.Fatal(err)
	}
	full, err := o.normal()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(resolvedPath(full), []byte(`{"kernel":{"name":"../../x"}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Build(ctx, o); err != nil {
		t.Error(err)
	}
}
