package agent

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
)

// raucSays are the last errors of RAUC 1.15.2, as it printed them for bundles that were bad in one
// way each, and what a person is told.
var raucSays = []struct {
	name, said, want string
	touched          bool
}{
	{"another architecture",
		"Compatible mismatch: Expected 'toe-amd64-uml-debian' but bundle manifest has 'toe-arm64-uml-debian'",
		"the bundle is for toe-arm64-uml-debian, want one for toe-amd64-uml-debian (RAUC: ", false},
	{"an older version",
		"Version mismatch: Expected at least '2026.1128.100' but bundle manifest has '2026.1127.900'",
		"the bundle has version 2026.1127.900, this card runs 2026.1128.100; want a later one, or --allow-downgrade", false},
	{"an absurd version",
		"Failed to parse semantic version B for comparison: Failed to parse core version component 'abc' as uint: ?abc? is not an unsigned number",
		"the bundle has version abc; want numbers", false},
	{"another signer",
		"signature verification failed: Verify error: unable to get local issuer certificate",
		"signed by a key that the card's keyring does not trust", false},
	{"an expired certificate",
		"signature verification failed: Verify error: certificate has expired",
		"has expired; want a bundle of a valid one", false},
	{"a certificate for something else",
		"signature verification failed: Verify error: unsuitable certificate purpose",
		"is not for signing code", false},
	{"a bit of the manifest flipped",
		"signature verification failed: error:1700009E:CMS routines::verification failure",
		"the signature does not fit the bundle, which is damaged", false},
	{"truncated",
		"Invalid bundle format: Signature size (4492109092604376159) exceeds bundle size",
		"the bundle is truncated or damaged", false},
	{"a bit of the signature flipped",
		"Invalid bundle format: Signature data is no valid CMS",
		"the bundle is truncated or damaged", false},
	{"the first block flipped",
		"Failed mounting bundle: Check read from dm-verity device failed: Input/output error",
		"the bundle is damaged (RAUC: ", false},
	{"a block in the middle flipped",
		"Installation error: Failed updating slot rootfs.1: Failed to copy data: Error reading from file: Input/output error",
		"slot rootfs.1: the bundle is damaged there, or its download broke off", true},
	{"something new", "Something new", "RAUC: Something new; nothing was changed", false},
	{"nothing", "", "without saying why", false},
}

func TestExplain(t *testing.T) {
	for _, c := range raucSays {
		err := raucSaid{last: c.said}.explain("")
		if !strings.Contains(err.Error(), c.want) || err.touched != c.touched {
			t.Errorf("%s: %q, touched %v; want %q, %v", c.name, err, err.touched, c.want, c.touched)
		}
		if stays := strings.Contains(err.Error(), "the slot stays bad"); stays != c.touched {
			t.Errorf("%s: %q", c.name, err)
		}
	}
	err := raucSaid{last: "Pre-install handler error: Child process exited with code 1"}.explain("image x has 2 bytes")
	if err.Error() != "image x has 2 bytes; nothing was changed" {
		t.Errorf("the handler's refusal: %q", err)
	}
}

// fakeRAUC is an installPart whose RAUC is a script. The real one runs on the card of test/e2e.
func fakeRAUC(t *testing.T, script string) *installPart {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "rauc")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	e := &env{log: NewLog(io.Discard), procs: newProcs(), conf: &control.Config{}}
	return &installPart{env: e, offers: newOffers(), rauc: program, why: filepath.Join(dir, "refused"), stop: func() {}, grace: time.Second}
}

const statusScript = `[ "$1" != status ] || { echo "rauc-Message: x"; ` +
	`echo '{"boot_primary":"rootfs.1","slots":[{"boot.1":{"bootname":null}},{"rootfs.1":{"bootname":"B"}}]}'; exit; }
`

func TestInstall(t *testing.T) {
	p := fakeRAUC(t, statusScript+`echo "$@" >&2
printf 'installing\n  0%% Installing\n 20%% Checking bundle done.\n 40%% Updating slots\n100%% Installing done.\nodd\n'
`)
	var steps []string
	slot, err := p.install(t.Context(), &cardpb.InstallRequest{Url: "http://192.0.2.1/b"}, func(_ uint32, s string) {
		steps = append(steps, s)
	})
	if err != nil || slot != "B" {
		t.Fatalf("slot %q, %v", slot, err)
	}
	if got := strings.Join(steps, "|"); got != "Installing|Checking bundle|Updating slots|Installing" {
		t.Errorf("steps %s", got)
	}
}

func TestInstallFails(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		url    string
		code   connect.Code
		want   string
	}{
		"refused": {"echo 'LastError: signature verification failed: x'; exit 1", "http://h/b", connect.CodeFailedPrecondition, "damaged"},
		"broken":  {"echo ' 40% Updating slots'; echo 'LastError: Installation error: x'; exit 1", "http://h/b", connect.CodeAborted, "stays bad"},
		"a file":  {"", "/etc/passwd", connect.CodeInvalidArgument, "want an http or https URL"},
		"a flag":  {"", "--conf=/x", connect.CodeInvalidArgument, "want an http or https URL"},
		"silent":  {"exit 3", "http://h/b", connect.CodeFailedPrecondition, "without saying why"},
	} {
		p := fakeRAUC(t, c.script)
		_, err := p.install(t.Context(), &cardpb.InstallRequest{Url: c.url}, func(uint32, string) {})
		if connect.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %v and %q", name, err, c.code, c.want)
		}
	}
	p := fakeRAUC(t, "")
	p.rauc = "/no/such/rauc"
	if _, err := p.install(t.Context(), &cardpb.InstallRequest{Url: "http://h/b"}, nil); connect.CodeOf(err) != connect.CodeUnimplemented {
		t.Errorf("no RAUC: %v", err)
	}
}

func TestInstallIsAloneAndEnds(t *testing.T) {
	p := fakeRAUC(t, "echo ' 40% Updating slots'; exec sleep 60")
	ctx, cancel := context.WithCancel(t.Context())
	stopped := false
	p.stop = func() { stopped = true }
	begun := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		_, err := p.install(ctx, &cardpb.InstallRequest{Url: "http://h/b"}, func(uint32, string) { close(begun) })
		ended <- err
	}()
	<-begun
	if _, err := p.install(t.Context(), &cardpb.InstallRequest{Url: "http://h/b"}, nil); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("a second installation: %v", err)
	}
	cancel()
	select {
	case err := <-ended:
		var failed *installError
		p.patience = 10 * time.Second
		if !p.begin(t.Context()) {
			t.Error("after a canceled installation none can begin")
		}
		if !errors.As(err, &failed) || !failed.touched || !stopped {
			t.Errorf("canceled: %v; RAUC stopped: %v", err, stopped)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the installation goes on 30 s after it was canceled")
	}
}

func FuzzFollowRAUC(f *testing.F) {
	f.Add(" 40% Updating slots\nLastError: x\n")
	f.Add("999% x\n%\n" + strings.Repeat("a", 70000))
	f.Fuzz(func(t *testing.T, text string) {
		said := followRAUC(strings.NewReader(text), func(percent uint32, step string) {
			if percent > 100 || step == "" {
				t.Errorf("%d%% %q", percent, step)
			}
		})
		if said.explain("").Error() == "" {
			t.Error("no explanation")
		}
	})
}

func TestPrimarySlot(t *testing.T) {
	for _, text := range []string{"", "{", `{"boot_primary":null,"slots":[]}`, `{"boot_primary":"x","slots":[{"y":{"bootname":"B"}}]}`} {
		if slot, err := primarySlot([]byte(text)); err == nil {
			t.Errorf("%q: slot %q", text, slot)
		}
	}
}
