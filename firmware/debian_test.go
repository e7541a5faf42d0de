package firmware

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/toe-project/toe/internal/dpkg"
	"github.com/toe-project/toe/internal/newc"
)

const testStatus = `Package: bash
Essential: yes
Status: install ok installed
Maintainer: Matthias <doko@debian.org>
Architecture: amd64
Version: 5.2.37-2+b5
Source: bash (5.2.37-2)
Conffiles:
 /etc/bash.bashrc 3269b0cc
Description: GNU shell
 Version: not this one

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: adduser
Status: install ok installed
Architecture: all
Version: 3.152
`

func TestSPDX(t *testing.T) {
	all, err := dpkg.Parse([]byte(testStatus))
	if err != nil {
		t.Fatal(err)
	}
	text, err := spdx(all, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	var d spdxDocument
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	if len(d.Packages) != 2 || len(d.Relationships) != 2 || d.Version != "SPDX-2.3" {
		t.Fatalf("%s", text)
	}
	p := d.Packages[1]
	if p.References[0].Locator != "pkg:deb/debian/bash@5.2.37-2%2Bb5?arch=amd64&distro=debian-13" ||
		p.Source != "built from the source package bash 5.2.37-2" {
		t.Errorf("%+v", p)
	}
}

func TestDebVersion(t *testing.T) {
	for version, want := range map[string]string{
		"v1.2.3": "1.2.3", "1.2-3-gabc": "1.2+3+gabc", "abcdef1": "0~abcdef1", "": "0~devel",
		"12345678": "0~12345678", "7.3.4": "7.3.4",
	} {
		if got := debVersion(version); got != want {
			t.Errorf("debVersion(%q) = %q, want %q", version, got, want)
		}
	}
}

// dpkg reads our packages.
func TestDeb(t *testing.T) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("needs the program dpkg-deb")
	}
	p := debPackage{name: "toe-x", version: "1.2+3", arch: "amd64", fields: "Description: a test\n", files: []newc.File{
		newc.Regular("/etc/toe.conf", 0o644, []byte("a\n")),
		newc.Regular("/usr/sbin/toe-x", 0o755, []byte("program")),
		newc.Link("/usr/lib/x", "../sbin/toe-x"),
	}}
	data, err := p.deb()
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := p.deb(); !bytes.Equal(data, again) {
		t.Error("two packages of the same files differ")
	}
	file := filepath.Join(t.TempDir(), "x.deb")
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--field", file, "Package", "Version"}, "Package: toe-x\nVersion: 1.2+3"},
		{[]string{"--contents", file}, "./usr/lib/x -> ../sbin/toe-x"},
		{[]string{"--info", file, "conffiles"}, "/etc/toe.conf"},
	} {
		out, err := exec.Command("dpkg-deb", c.args...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), c.want) {
			t.Errorf("dpkg-deb %q: %v\n%s\nwant %q", c.args, err, out, c.want)
		}
	}
	got, err := readDeb(context.Background(), file, func(string) bool { return true })
	if err != nil || string(got["/usr/sbin/toe-x"]) != "program" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestBuiltinModules(t *testing.T) {
	info := "ext4.license=GPL\x00ext4.file=fs/ext4/ext4\x00ext4.alias=fs-ext4\x00configs.file=kernel/configs\x00"
	if got := string(builtinModules([]byte(info))); got != "kernel/fs/ext4/ext4.ko\nkernel/kernel/configs.ko\n" {
		t.Errorf("%q", got)
	}
}

// Every file of the root that a card needs has a place, and each only one.
func TestRootFiles(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range append(rootFiles(), agentFiles()...) {
		if seen[f.Name] {
			t.Errorf("%s twice", f.Name)
		}
		seen[f.Name] = true
	}
	for _, name := range []string{
		"/usr/lib/systemd/system/toe-agent.service", "/usr/lib/systemd/system/nftables.service.d/toe.conf", "/etc/ssh/sshd_config.d/toe.conf",
		"/usr/lib/systemd/network/10-toe.network", "/etc/systemd/system/hwclock.service",
	} {
		if !seen[name] {
			t.Errorf("no %s", name)
		}
	}
}

func TestBadPackages(t *testing.T) {
	for _, o := range []Options{
		{Edition: Debian, Packages: []string{"--option"}},
		{Edition: Debian, Packages: []string{"a b"}},
		{Edition: Micro, Packages: []string{"vim"}},
		{Edition: "windows"},
	} {
		o.CacheDir, o.AgentPath = "/nonexistent", "/nonexistent"
		if _, err := o.normal(); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}
