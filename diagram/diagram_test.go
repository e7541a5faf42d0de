package diagram

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/toe-project/toe/card/spec"
)

var update = flag.Bool("update", false, "write the pictures of the examples")

func parse(t *testing.T, file string) spec.Spec {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s, err := spec.Parse(file, data)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The pictures in docs/examples are those of the examples: go test ./diagram -update writes them.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../examples/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	for _, file := range files {
		picture := "../docs/examples/" + strings.TrimSuffix(filepath.Base(file), ".yaml") + ".svg"
		got := Draw(parse(t, file))
		if *update {
			if err := os.WriteFile(picture, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(picture)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not that of %s; fix: go test ./diagram -update (%v)", picture, file, err)
		}
		wellFormed(t, got)
		if !bytes.Equal(got, Draw(parse(t, file))) {
			t.Errorf("%s: two pictures of one card.yaml differ", file)
		}
	}
}

func wellFormed(t *testing.T, svg []byte) {
	t.Helper()
	for dec := xml.NewDecoder(bytes.NewReader(svg)); ; {
		switch _, err := dec.Token(); {
		case errors.Is(err, io.EOF):
			return
		case err != nil:
			t.Fatalf("no XML: %v\n%s", err, svg)
		}
	}
}

// What a name holds is text of the picture, never a part of it, and bounded.
func TestNamesAreText(t *testing.T) {
	s, err := spec.Parse("card.yaml", []byte("ports: [{name: wan, attach: user}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	const evil = `</text><script>alert("x")</script>&` + "\x1b[2J\u202e"
	s.Name = evil + strings.Repeat("n", 500)
	s.Ports[0].Name = evil
	s.Ports[0].Attach = spec.Attach{Kind: spec.AttachNetns, Name: evil, Device: evil}
	svg := Draw(s)
	wellFormed(t, svg)
	if text := string(svg); strings.Contains(text, "<script") || strings.ContainsAny(text, "\x1b\u202e") || len(svg) > 8000 {
		t.Errorf("%d bytes:\n%s", len(svg), svg)
	}
}
