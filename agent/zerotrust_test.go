package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
)

// What a host can and cannot do on a card with zero_trust, for every call of the API. A new call must
// get a row here, and one in hostMay if the host may make it.
func TestZeroTrustCalls(t *testing.T) {
	may := map[string]bool{
		"Status": true, "Logs": true, "Install": true, "Reboot": true, "PowerOff": true,
		"Apply": false, "Packages": true, "Upgrade": false, "Capture": false,
	}
	for _, on := range []bool{true, false} {
		e := &env{conf: &control.Config{ZeroTrust: on}}
		mux := http.NewServeMux()
		mux.Handle(cardpb.NewCardHandler(cardpb.UnimplementedCardHandler{}, connect.WithInterceptors(guard{e})))
		methods := cardpb.File_control_proto.Services().ByName("Card").Methods()
		for i := range methods.Len() {
			m := methods.Get(i)
			name := string(m.Name())
			allowed, known := may[name]
			if !known {
				t.Errorf("call %s: say here and in hostMay whether a host may make it with zero_trust", name)
			}
			answer := call(mux, "/toe.v1.Card/"+name, m.IsStreamingServer())
			denied := strings.Contains(answer, "permission_denied") && strings.Contains(answer, "zero_trust")
			if reached := strings.Contains(answer, "unimplemented"); reached == denied || denied != (on && !allowed) {
				t.Errorf("zero_trust %v, call %s: %s", on, name, answer)
			}
		}
		if methods.Len() < len(may) {
			t.Errorf("%d calls, the table has %d", methods.Len(), len(may))
		}
	}
}

// call makes an empty call of the Connect protocol and returns the answer's body.
func call(h http.Handler, path string, stream bool) string {
	kind, body := "application/json", []byte("{}")
	if stream {
		kind = "application/connect+json"
		body = append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body))), body...)
	}
	q, out := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body)), httptest.NewRecorder()
	q.Header.Set("Content-Type", kind)
	h.ServeHTTP(out, q)
	return out.Body.String()
}

const adminKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"

func hostConfig(change func(*control.Config)) *control.Config {
	c := &control.Config{
		Name: "edge", Mode: "endpoint", NAT: true, ZeroTrust: true, Firmware: "1", AuthorizedKeys: []string{adminKey},
		Links: []control.Link{{
			Name: "pci0", MAC: "02:00:00:00:00:01", Card: []netip.Prefix{netip.MustParsePrefix("10.116.0.1/31")},
			Host: []netip.Addr{netip.MustParseAddr("10.116.0.0")},
		}},
	}
	if change != nil {
		change(c)
	}
	text, err := c.Encode()
	if err != nil {
		panic(err)
	}
	c.Digest = control.Digest(text)
	return c
}

// A card takes its configuration once. What its host changes later, or drops, does not get the power
// back; what a start needs is taken.
func TestZeroTrustStays(t *testing.T) {
	r := newTrial(t, 1)
	tr := trust{filepath.Join(t.TempDir(), "zero-trust"), r.open}
	admit := func(what string, host *control.Config) (*control.Config, control.Keys) {
		t.Helper()
		keys := control.Keys{SSHHostKey: []byte("the host knows it")}
		c, err := tr.admit(host, &keys)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return c, keys
	}
	if c, keys := admit("a card without", hostConfig(func(c *control.Config) { c.ZeroTrust = false })); c.ZeroTrust || string(keys.SSHHostKey) != "the host knows it" {
		t.Errorf("without zero_trust: %+v", c)
	}
	first, keys := admit("the first start", hostConfig(nil))
	if !first.ZeroTrust || !r.read().ZeroTrust() || strings.Contains(string(keys.SSHHostKey), "host knows") {
		t.Fatalf("the first start: %+v, %v", first, r.read())
	}
	same := hostConfig(nil)
	if c, again := admit("the same", same); c.Digest != same.Digest || !bytes.Equal(again.SSHHostKey, keys.SSHHostKey) {
		t.Errorf("the same configuration has digest %s, want %s, and another host key: %v", c.Digest, same.Digest,
			!bytes.Equal(again.SSHHostKey, keys.SSHHostKey))
	}
	for what, host := range map[string]*control.Config{
		"the key is dropped": hostConfig(func(c *control.Config) { c.ZeroTrust = false }),
		"a key of the host":  hostConfig(func(c *control.Config) { c.AuthorizedKeys = append(c.AuthorizedKeys, adminKey+" host") }),
		"another mode":       hostConfig(func(c *control.Config) { c.Mode, c.DNS = "router", nil }),
	} {
		c, _ := admit(what, host)
		if !c.ZeroTrust || c.Mode != "endpoint" || !slices.Equal(c.AuthorizedKeys, []string{adminKey}) || c.Digest == host.Digest {
			t.Errorf("%s: %+v", what, c)
		}
	}
	next := hostConfig(func(c *control.Config) { c.Firmware, c.HealthLimit = "2", 90 })
	if c, _ := admit("a new release", next); c.Firmware != "2" || c.HealthLimit != 90 || c.Digest != next.Digest {
		t.Errorf("a new release: %+v", c)
	}
	// The data is cleared or damaged: still no power for the host.
	for what, spoil := range map[string]func() error{
		"damaged": func() error { return os.WriteFile(filepath.Join(tr.dir, "card.json"), make([]byte, 300), 0o600) },
		"cleared": func() error { return os.RemoveAll(tr.dir) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if c, _ := admit(what, hostConfig(func(c *control.Config) { c.ZeroTrust = false })); !c.ZeroTrust || len(c.AuthorizedKeys) > 0 {
			t.Errorf("the data is %s: %+v", what, c)
		}
	}
	// An administrator of the card ends it.
	if err := tr.end(); err != nil {
		t.Fatal(err)
	}
	if c, _ := admit("after the end", hostConfig(func(c *control.Config) { c.ZeroTrust = false })); c.ZeroTrust || r.read().ZeroTrust() {
		t.Errorf("after the end: %+v", c)
	}
}

// Killed at any step of the first start, the card begins again or has zero_trust: there is no state
// in which the host has the power and the card believes otherwise.
func TestZeroTrustFirstStartKilled(t *testing.T) {
	for failAt := range 3 {
		r := newTrial(t, 1)
		opens := 0
		tr := trust{filepath.Join(t.TempDir(), "zero-trust"), func() (bootEnv, error) {
			if opens++; opens > failAt {
				return nil, errLost
			}
			return r.open()
		}}
		keys := control.Keys{}
		if _, err := tr.admit(hostConfig(nil), &keys); (err != nil) != (failAt < 2) || err != nil && !errors.Is(err, errLost) {
			t.Errorf("lost at %d: %v", failAt, err)
		}
		tr.open = r.open
		if c, err := tr.admit(hostConfig(nil), &keys); err != nil || !c.ZeroTrust {
			t.Errorf("after a loss at %d: %+v, %v", failAt, c, err)
		}
		if !r.read().ZeroTrust() {
			t.Errorf("after a loss at %d the environment has no mark", failAt)
		}
	}
}

// An offer waits for an administrator.
func TestOfferWaits(t *testing.T) {
	for name, c := range map[string]struct {
		word, says string
	}{
		"accepted": {"accept", ""},
		"refused":  {"refuse", "refused the offer; nothing was changed"},
		"canceled": {"", "no administrator of the card has accepted"},
	} {
		dir := t.TempDir()
		p := &installPart{env: &env{log: NewLog(io.Discard)}, answers: dir}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended, steps := make(chan error, 1), make(chan string, 1)
		go func() {
			ended <- p.await(ctx, &cardpb.InstallRequest{Name: "new.raucb", AllowDowngrade: true},
				func(_ uint32, step string) { steps <- step })
		}()
		if step := <-steps; !strings.Contains(step, "toe-agent offer") {
			t.Errorf("%s: step %q", name, step)
		}
		var out bytes.Buffer
		if err := answerOffer(dir, "", &out); err != nil || !strings.Contains(out.String(), `the host's "new.raucb", also an older version`) {
			t.Errorf("%s: %q, %v", name, out.String(), err)
		}
		if err := answerOffer(dir, "perhaps", &out); err == nil || !strings.Contains(err.Error(), "want refuse, or accept with the ID") {
			t.Errorf("%s: %v", name, err)
		}
		if err := answerOffer(dir, "accept ANOTHER", &out); err == nil {
			t.Errorf("%s: the answer to another offer is taken", name)
		}
		var shown offered
		text, _ := os.ReadFile(filepath.Join(dir, offerFile))
		if err := json.Unmarshal(text, &shown); err != nil || !strings.Contains(out.String(), "accept "+shown.ID) {
			t.Errorf("%s: %s, %v", name, text, err)
		}
		if c.word == accepted {
			c.word += " " + shown.ID
		}
		if c.word == "" {
			cancel()
		} else if err := answerOffer(dir, c.word, &out); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		select {
		case err := <-ended:
			if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: the offer still waits", name)
		}
		if err := answerOffer(dir, "accept", &out); err == nil || err.Error() != "no offer waits" {
			t.Errorf("%s: afterwards: %v", name, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v, %v", name, left, err)
		}
	}
}
