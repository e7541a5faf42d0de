package newc

import (
	"bytes"
	"io"
	"io/fs"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"
)

func TestBytes(t *testing.T) {
	var out bytes.Buffer
	if err := Write(&out, []File{Regular("/a", 0o644, []byte("hello"))}); err != nil {
		t.Fatal(err)
	}
	want := "070701" + "00000001" + "000081A4" + "00000000" + "00000000" + "00000001" + "00000000" +
		"00000005" + "00000000" + "00000000" + "00000000" + "00000000" + "00000002" + "00000000" +
		"a\x00" + "hello\x00\x00\x00" +
		"070701" + "00000000" + "00000000" + "00000000" + "00000000" + "00000001" + "00000000" +
		"00000000" + "00000000" + "00000000" + "00000000" + "00000000" + "0000000B" + "00000000" +
		"TRAILER!!!\x00\x00\x00\x00"
	if out.String() != want {
		t.Errorf("got\n%q, want\n%q", out.String(), want)
	}
}

// TestTypes reads an archive back with an independent reader.
func TestTypes(t *testing.T) {
	var out bytes.Buffer
	err := Write(&out, []File{
		Dir("/", 0o755), Dir("/tmp", 0o777|fs.ModeSticky), Link("/sbin", "bin"),
		CharDevice("/null", 0o666, 1, 3), Regular("/empty", 0o600, nil), Regular("/init", 0o755, []byte("12345")),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"000041ED", "000043FF", "0000A1FF", "000021B6", "0000000100000003", "00008180"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %s in the archive", want)
		}
	}
	r := cpio.NewReader(&out)
	for _, want := range []struct{ name, data string }{
		{".", ""}, {"tmp", ""}, {"sbin", "bin"}, {"null", ""}, {"empty", ""}, {"init", "12345"},
	} {
		h, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(body) + h.Linkname; h.Name != want.name || got != want.data {
			t.Errorf("entry %s with %q, want %s with %q", h.Name, got, want.name, want.data)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("after the last entry: %v, want EOF", err)
	}
}

func TestRefuses(t *testing.T) {
	for _, f := range []File{
		Regular("relative", 0o644, nil), Regular("/a/../b", 0o644, nil), Regular("", 0o644, nil),
		Regular("/a/", 0o644, nil), Regular("/nul\x00", 0o644, nil),
		{Name: "/sock", Mode: fs.ModeSocket},
	} {
		if err := Write(io.Discard, []File{f}); err == nil {
			t.Errorf("%q with mode %v was taken", f.Name, f.Mode)
		}
	}
}
