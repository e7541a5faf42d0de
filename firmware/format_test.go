package firmware

import (
	"archive/tar"
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

// first is the manifest of an image of format 1, as toe wrote it.
const first = `{
  "format": 1,
  "edition": "micro",
  "version": "6.12.9-0123456789",
  "architecture": "amd64",
  "target": "qemu",
  "machines": ["kvm", "tcg"],
  "kernel": "6.12.9+deb13-cloud-amd64",
  "agent_sha256": "d4f0bc5a29de06b510f9aa428f1eedba926012b591fef7a518e776a7c9bd1824",
  "packages": [{"name": "busybox-static", "version": "1", "architecture": "amd64", "sha256": ""}],
  "members": [
    {"name": "kernel", "size": 8, "sha256": "KERNEL"},
    {"name": "initramfs", "size": 1000, "sha256": "INITRAMFS"}
  ]
}
`

// unknown is the manifest of an image of a later toe, with an unknown field and an unknown member.
func unknown(critical bool) string {
	m := testManifest()
	extra := member("verity", []byte("of a later toe"))
	extra.Critical = critical
	m.Members = slices.Insert(m.Members, 1, extra)
	text, err := m.encode()
	if err != nil {
		panic(err) // it has no value that JSON cannot hold
	}
	return strings.Replace(string(text), `"format"`, `"signed_by": {"key": 1}, "format"`, 1)
}

// imageOf is an image with that manifest and the members that it lists.
func imageOf(t testing.TB, manifest string) []byte {
	t.Helper()
	manifest = strings.Replace(manifest, "KERNEL", member("", testKernel).SHA256, 1)
	manifest = strings.Replace(manifest, "INITRAMFS", member("", testInitramfs).SHA256, 1)
	files := slices.Concat([]content{{name: manifestName, data: []byte(manifest)}}, testContents)
	if strings.Contains(manifest, "verity") {
		files = slices.Insert(files, 2, content{name: "verity", data: []byte("of a later toe")})
	}
	var headers []tar.Header
	var bodies [][]byte
	for _, f := range files {
		headers = append(headers, tar.Header{
			Typeflag: tar.TypeReg, Name: f.name, Size: int64(len(f.data)), Mode: 0o644, Format: tar.FormatUSTAR,
		})
		bodies = append(bodies, f.data)
	}
	return tarOf(t, headers, bodies)
}

func TestFormatOneIsRead(t *testing.T) {
	m, err := read(imageOf(t, first))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(m.Agent.SHA256, "d4f0bc5a") || m.Agent.Version != "" {
		t.Errorf("agent %+v", m.Agent)
	}
}

func TestUnknownFieldsAndMembers(t *testing.T) {
	if _, err := read(imageOf(t, unknown(false))); err != nil {
		t.Errorf("a member that is not critical: %v", err)
	}
	_, err := read(imageOf(t, unknown(true)))
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), `"verity"`) {
		t.Errorf("a critical member: %v, want ErrInvalid and its name", err)
	}
	changed := bytes.Replace(imageOf(t, unknown(false)), []byte("of a later toe"), []byte("of a later tow"), 1)
	if _, err := read(changed); !errors.Is(err, ErrInvalid) {
		t.Errorf("a damaged unknown member: %v, want ErrInvalid", err)
	}
}

func TestAgentVersionIsFoundInTheProgram(t *testing.T) {
	for program, want := range map[string]string{
		"x toe-agent-version=v1.2-3-gabc;y":                   "v1.2-3-gabc",
		"x toe-agent-version=v1.2":                            "",
		"x toe-agent-version=;":                               "",
		"x toe-agent-version=\x1b[2J;":                        "",
		"toe-agent-version=" + strings.Repeat("1", 200) + ";": "",
		"nothing": "",
	} {
		if got := agentOf([]byte(program)).Version; got != want {
			t.Errorf("%.40q: version %q, want %q", program, got, want)
		}
	}
	a, b := agentOf([]byte("toe-agent-version=1;")), agentOf([]byte("toe-agent-version=2;"))
	if d := a.Difference(b); !strings.Contains(d, "its agent is 1 (") || !strings.Contains(d, "this host has 2 (") {
		t.Errorf("difference %q", d)
	}
	if d := a.Difference(a) + a.Difference(Agent{}) + (Agent{}).Difference(b); d != "" {
		t.Errorf("difference %q, want none", d)
	}
}

func FuzzReadImage(f *testing.F) {
	good := testImage(f)
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte{})
	m := testManifest()
	text, err := m.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(imageOf(f, first))
	f.Add(imageOf(f, unknown(false)))
	f.Add(imageOf(f, unknown(true)))
	f.Add(bytes.Replace(good, []byte(`"size": 8`), []byte(`"size": 9`), 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := read(b)
		if err == nil && m.check() != nil {
			t.Error("an image was taken whose manifest is not valid")
		}
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("error %v is not ErrInvalid", err)
		}
		_, _ = parseManifest(append(text[:len(text)/2:len(text)/2], b...))
	})
}
