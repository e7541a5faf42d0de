package flash

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// memory is a partition in memory that loses power after some bytes.
type memory struct {
	data  []byte
	power int // bytes that can still be written; negative: no end
	syncs int
}

var errPower = errors.New("power loss")

func (m *memory) ReadAt(b []byte, off int64) (int, error) {
	return bytes.NewReader(m.data).ReadAt(b, off)
}

func (m *memory) WriteAt(b []byte, off int64) (int, error) {
	if m.power >= 0 && m.power < len(b) {
		copy(m.data[off:], b[:m.power])
		return m.power, errPower
	}
	return copy(m.data[off:], b), nil
}

func (m *memory) Sync() error { m.syncs++; return nil }

func newMemory() *memory { return &memory{data: make([]byte, envSpan), power: -1} }

func mustWrite(t testing.TB, s Storage, env Env) {
	t.Helper()
	if err := WriteEnv(s, env); err != nil {
		t.Fatal(err)
	}
}

func wantEnv(t testing.TB, r io.ReaderAt, want Env) {
	t.Helper()
	if got, err := ReadEnv(r); err != nil || !maps.Equal(got, want) {
		t.Errorf("the environment is %v, %v; want %v", got, err, want)
	}
}

func TestEnvRoundTrip(t *testing.T) {
	m := newMemory()
	if _, err := ReadEnv(m); !errors.Is(err, ErrNoEnv) {
		t.Errorf("an empty partition: %v, want ErrNoEnv", err)
	}
	for i := range 600 { // the flag wraps twice
		want := Env{"BOOT_ORDER": "A B", "n": fmt.Sprint(i), "empty": "", "text": "a=b c\n\xff"}
		mustWrite(t, m, want)
		wantEnv(t, m, want)
	}
	if m.syncs != 600 {
		t.Errorf("%d syncs after 600 writes", m.syncs)
	}
	before := bytes.Clone(m.data)
	mustWrite(t, m, Env{"BOOT_ORDER": "A B", "n": "599", "empty": "", "text": "a=b c\n\xff"})
	if !bytes.Equal(before, m.data) {
		t.Error("an environment that is in force was written again")
	}
}

// A power loss at any byte of a write leaves the old environment or the new one (complaint 13:
// the database of the updates itself must survive it).
func TestPowerLossAtEveryByteOfTheEnvironment(t *testing.T) {
	first, second, third := Env{"BOOT_ORDER": "A B"}, Env{"BOOT_ORDER": "B A", "BOOT_B_LEFT": "3"}, Env{"x": "y"}
	for _, written := range [][]Env{{first}, {first, second}, {first, second, third}} {
		m := newMemory()
		for _, e := range written {
			mustWrite(t, m, e)
		}
		old, next := written[len(written)-1], Env{"BOOT_ORDER": "A B", "BOOT_A_LEFT": "2"}
		for power := range envCopy {
			if power > 64 && power%1021 != 0 && power != envCopy-1 {
				continue // the variables end before; the rest is empty
			}
			m := &memory{data: bytes.Clone(m.data), power: power}
			if err := WriteEnv(m, next); !errors.Is(err, errPower) {
				t.Fatalf("power for %d bytes: %v", power, err)
			}
			// The end of a copy is empty here already: without it nothing is lost.
			if got, err := ReadEnv(m); err != nil || !maps.Equal(got, old) && !maps.Equal(got, next) {
				t.Fatalf("power for %d bytes: %v, %v; want the old or the new environment", power, got, err)
			}
			m.power = -1
			mustWrite(t, m, next) // the same command finishes the work
			wantEnv(t, m, next)
		}
	}
}

func TestEnvRefuses(t *testing.T) {
	for name, env := range map[string]Env{
		"name with =": {"a=b": "c"}, "no name": {"": "c"}, "NUL": {"a": "b\x00c"}, "too large": {"a": strings.Repeat("x", envCopy)},
		"NUL in the name": {"a\x00b": "c"}, "one byte too many": {"a": strings.Repeat("x", envCopy-envHeader-3)},
	} {
		m := newMemory()
		if err := WriteEnv(m, env); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if !bytes.Equal(m.data, make([]byte, envSpan)) {
			t.Errorf("%s: something was written", name)
		}
	}
	largest := Env{"a": strings.Repeat("x", envCopy-envHeader-4)}
	m := newMemory()
	mustWrite(t, m, largest)
	wantEnv(t, m, largest)
}

// envFile is the partition env as a file, and the fw_env.config for it.
func envFile(t *testing.T) (f *os.File, config string) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "env"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(envSize); err != nil {
		t.Fatal(err)
	}
	config = filepath.Join(dir, "fw_env.config")
	text := strings.ReplaceAll(FwEnvConfig, "/dev/disk/by-partlabel/env", f.Name())
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return f, config
}

// The programs of libubootenv, which RAUC calls, read and write the same environment.
func TestLibubootenv(t *testing.T) {
	f, config := envFile(t)
	first, err := Env{"BOOT_ORDER": "A B", "BOOT_A_LEFT": "3"}.encodeCopy(250)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(first, 0); err != nil {
		t.Fatal(err)
	}
	for i := range 5 { // until the flag has wrapped, each side writes in turn
		value := fmt.Sprint(i)
		run(t, "fw_setenv", "-c", config, "from_fw", value)
		if out := run(t, "fw_printenv", "-c", config, "-n", "from_fw"); strings.TrimSpace(out) != value {
			t.Fatalf("fw_printenv prints %q, want %s", out, value)
		}
		env, err := ReadEnv(f)
		if err != nil || env["from_fw"] != value || env["BOOT_ORDER"] != "A B" {
			t.Fatalf("after fw_setenv: %v, %v", env, err)
		}
		mustWrite(t, f, env.With(Env{"from_us": value}))
		if out := run(t, "fw_printenv", "-c", config, "-n", "from_us"); strings.TrimSpace(out) != value {
			t.Fatalf("after write %d fw_printenv prints %q", i, out)
		}
	}
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("BOOT_A_GOOD=abc\nfrom_us=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "fw_setenv", "-c", config, "-s", script)
	env, err := ReadEnv(f)
	if _, there := env["from_us"]; err != nil || env["BOOT_A_GOOD"] != "abc" || there {
		t.Errorf("after a script: %v, %v", env, err)
	}
}

// A copy that U-Boot's own mkenvimage makes is read, and ours has the same bytes.
func TestMkenvimage(t *testing.T) {
	dir := t.TempDir()
	text, image := filepath.Join(dir, "text"), filepath.Join(dir, "image")
	if err := os.WriteFile(text, []byte("BOOT_A_LEFT=3\nBOOT_ORDER=A B\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "mkenvimage", "-r", "-p", "0", "-s", fmt.Sprint(envCopy), "-o", image, text)
	made, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	env, flag, ok := parseCopy(made)
	if want := (Env{"BOOT_ORDER": "A B", "BOOT_A_LEFT": "3"}); !ok || !maps.Equal(env, want) {
		t.Errorf("read %v, %v; want %v", env, ok, want)
	}
	if ours, err := env.encodeCopy(flag); err != nil || !bytes.Equal(ours, made) {
		t.Errorf("our copy differs from that of mkenvimage, %v", err)
	}
}

func FuzzEnv(f *testing.F) {
	for _, e := range []Env{{}, {"BOOT_ORDER": "A B", "BOOT_A_LEFT": "3"}, {"a": strings.Repeat("=", 100)}} {
		b, err := e.encodeCopy(7)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[envHeader:])
	}
	f.Add([]byte("no end"))
	f.Add([]byte("=x\x00y\x00\x00z=1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m := newMemory()
		copy(m.data[envHeader:envCopy], data)
		seal(m.data[:envCopy])
		env, err := ReadEnv(m)
		if err != nil {
			t.Fatalf("a copy with a right CRC: %v", err)
		}
		mustWrite(t, m, env.With(Env{"fuzz": "1"}))
		env["fuzz"] = "1"
		if len(env["fuzz"]) > 0 {
			wantEnv(t, m, env)
		}
		held := map[Slot]Held{A: {Digest: "a"}, B: {Digest: "b"}}
		if c := Choose(env, held); c.Slot != "" && env.Left(c.Slot) == 0 {
			t.Errorf("%v: slot %s is started without attempts", env, c.Slot)
		}
	})
}
