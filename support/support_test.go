package support

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store/storetest"
	"github.com/toe-project/toe/internal/atomicfile"
)

// planted are secrets in the forms in which files hold them. The secret of each begins with PLANTED.
var planted = []string{
	"psk: PLANTED-a1 with spaces",
	"  pre_shared_key: \"PLANTED-a2\"",
	"PrivateKey = PLANTEDa3PLANTEDa3PLANTEDa3PLANTEDa3PLANTE=",
	"proxy: http://user:PLANTED-a4@proxy.example:3128/",
	"Acquire::http::Proxy \"http://PLANTED-a5:PLAN/TED@PLANTED-a6@proxy\";",
	"password: |\n    PLANTED-a7\n    PLANTED-a8\n",
	`{"level":"info","secret":"PLANTED-a9","msg":"{\"token\": \"PLANTED-b1 x\"}"}`,
	"mount -o username=x,password=PLANTED-b2 //nas/share",
	"iscsiadm --chap-password PLANTED-b3",
	"Authorization: Bearer PLANTED-b4PLANTED",
	"root:$6$PLANTED$b5PLANTED:19000:0",
	"-----BEGIN PRIVATE KEY-----\nPLANTEDb6\nPLANTEDb7\n-----END PRIVATE KEY-----",
	"-----BEGIN OPENSSH PRIVATE KEY-----\r\nPLANTEDb8\r\nPLANTEDb9",
	"GET /x?api_key=PLANTED-c1&n=2 HTTP/1.1",
}

const harmless = "wan has carrier, 192.0.2.7/24 by DHCP"

func plant(t *testing.T, path string) {
	t.Helper()
	text := strings.Join(planted, "\n"+harmless+"\n") + "\n"
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(text)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// unpack returns the files of an archive.
func unpack(t *testing.T, data []byte) map[string]string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimPrefix(h.Name, "top/")] = string(text)
	}
}

// Secrets are planted in every file that a card has, its real keys in the logs as well. None of
// them is in the archive of the card, which is down.
func TestNoSecretIsInTheArchive(t *testing.T) {
	c := storetest.Card(t, "name: edge\n")
	if err := c.EnsureKeys(); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(c.Paths.Runtime, 0o700); err != nil {
		t.Fatal(err)
	}
	var secrets []string
	var keys string // each line of a private key, as a console would show it
	err := filepath.WalkDir(c.Paths.Keys(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if !bytes.Contains(data, []byte("PRIVATE KEY")) {
			return err
		}
		for line := range strings.Lines(string(data)) {
			if line = strings.TrimSpace(line); len(line) >= shortest && !strings.HasPrefix(line, "-----") {
				secrets = append(secrets, line)
				keys += "[   12.345678] leak: " + line + "\n"
			}
		}
		return err
	})
	if err != nil || len(secrets) < 4 {
		t.Fatalf("%d lines of keys, %v", len(secrets), err)
	}
	plant(t, c.Paths.Spec()) // no card.yaml now
	for _, path := range []string{c.Paths.Log(), c.Paths.Log() + ".1", c.Paths.ConsoleLog(), c.Paths.ConsoleLog() + ".1"} {
		plant(t, path)
		f, _ := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		_, _ = f.WriteString(keys + harmless + "\n")
		f.Close()
	}
	last := status.Last{State: status.Failed, Time: time.Now(), Reasons: []string{harmless}}
	for _, text := range append(planted, keys, harmless) {
		last.History = append(last.History, status.Event{Time: time.Now(), Text: text})
	}
	journal := map[string]any{"private_key": "PLANTED-d1", "note": harmless, "list": []any{map[string]any{"Password": []string{"PLANTED-d2"}}}}
	if err := errors.Join(atomicfile.WriteJSON(c.Paths.Last(), last), atomicfile.WriteJSON(c.Paths.Journal(), journal)); err != nil {
		t.Fatal(err)
	}
	line, _ := json.Marshal(map[string]string{"bundle": "https://PLANTED-e1:PLANTED-e2@feed.example/b.raucb", "note": harmless})
	if err := os.WriteFile(c.Paths.FirmwareHistory(), append(line, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}

	var out bytes.Buffer
	a := NewArchive(&out, "top", time.Now())
	a.AddCard(t.Context(), c.Dirs, "edge")
	a.AddJSON(t.Context(), "fails.json", time.Second, func(context.Context) (any, error) {
		return nil, errors.New("get https://u:PLANTED-f1@feed.example/: refused")
	})
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	files := unpack(t, out.Bytes())
	for name, text := range files {
		for _, secret := range append(secrets, "PLANTED") {
			if at := strings.Index(text, secret); at >= 0 {
				t.Errorf("%s has %q", name, text[max(at-60, 0):min(at+60, len(text))])
			}
		}
	}
	for _, name := range []string{
		"card.yaml", "status.json", "events.jsonl", "supervisor.log", "supervisor.log.1", "console.log", "console.log.1",
		"last.json", "journal.json", "firmware-history.jsonl",
	} {
		if text := files["edge/"+name]; !strings.Contains(text, harmless) || !strings.Contains(text, removed) {
			t.Errorf("%s: want what is harmless, and a mark where a secret was:\n%.300s", name, text)
		}
	}
	if r := files["report.json"]; !strings.Contains(r, "fails.json") || !strings.Contains(r, "refused") {
		t.Errorf("the report does not say what is missing: %s", r)
	}
}

// A supervisor that hangs costs its limit, and the rest is there.
func TestItemThatHangs(t *testing.T) {
	var out bytes.Buffer
	a := NewArchive(&out, "top", time.Now())
	a.Add(t.Context(), "hangs", Text, 20*time.Millisecond, func(context.Context) ([]byte, error) { select {} })
	a.Add(t.Context(), "there", Text, time.Minute, func(context.Context) ([]byte, error) { return []byte("text"), nil })
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	files := unpack(t, out.Bytes())
	if files["there"] != "text" || !strings.Contains(files["report.json"], "not there within 20ms") {
		t.Errorf("%q", files)
	}
}

// Of a long log the end is kept; what is no file is not read.
func TestLongAndOddFiles(t *testing.T) {
	dir := t.TempDir()
	long := bytes.Repeat([]byte("line of a log\n"), maxItem/10)
	if err := os.WriteFile(dir+"/long", append(long, "the end\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("long", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	a := NewArchive(&out, "top", time.Now())
	a.AddFile("long", Text, dir+"/long")
	a.AddFile("link", Text, dir+"/link")
	a.AddFile("dir", Text, dir)
	a.AddFile("none", Text, dir+"/none")
	_ = a.Close()
	files := unpack(t, out.Bytes())
	if text := files["long"]; len(text) != maxItem || !strings.HasSuffix(text, "the end\n") || len(files) != 2 || len(a.Items) != 3 {
		t.Errorf("%d bytes; %d files, %+v", len(text), len(files), a.Items)
	}
}

func FuzzRedact(f *testing.F) {
	for _, p := range planted {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var r Redactor
		r.JSON([]byte(text))
		if got := r.Text([]byte("psk: PLANTED\n" + text)); bytes.HasPrefix(got, []byte("psk: PLANTED")) {
			t.Errorf("%q keeps the secret before it", text)
		}
	})
}
