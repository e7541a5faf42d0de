package control

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/toe-project/toe/control/cardpb"
)

// The files in testdata ending in -v1 were written by version 0.1, which
// decoded card.json strictly. They do not change.

func golden(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestOldHost: this card takes the configuration of a host from before the
// version.
func TestOldHost(t *testing.T) {
	data := golden(t, "card-v1.json")
	c, err := ParseConfig(data)
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "edge" || !c.Endpoint() || len(c.Publish) != 2 || c.Offload.Congestion != "bbr" {
		t.Errorf("read %+v", c)
	}
	if c.Digest != Digest(data) || len(c.Ignored) != 0 {
		t.Errorf("digest %s, ignored %q", c.Digest, c.Ignored)
	}
}

// TestOldCard: what uses nothing new is written as before, byte for byte. A
// strict card reads it.
func TestOldCard(t *testing.T) {
	want := golden(t, "card-v1.json")
	c, err := ParseConfig(want)
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []int{0, 1} {
		c.Version = version
		if got, err := c.Encode(); err != nil || string(got) != string(want) {
			t.Errorf("version %d is written as\n%s\n%v, want\n%s", version, got, err, want)
		}
	}
}

// with puts a key before all others of the golden configuration.
func with(t testing.TB, key string) []byte {
	return []byte(strings.Replace(string(golden(t, "card-v1.json")), "{", "{\n  "+key+",", 1))
}

// TestNewHost: unknown keys of a newer host are ignored and named, unless they
// are critical.
func TestNewHost(t *testing.T) {
	old := string(golden(t, "card-v1.json"))
	replace := func(from, to string) []byte { return []byte(strings.ReplaceAll(old, from, to)) }
	for name, tt := range map[string]struct {
		data    []byte
		ignored []string
	}{
		"at the top":     {with(t, `"turbo": {"level": 9}`), []string{"turbo"}},
		"in an object":   {replace(`"mdns": true`, `"mdns": true, "turbo": 9`), []string{"offload.turbo"}},
		"in a list":      {replace(`"protocol":`, `"acl": [], "protocol":`), []string{"publish.acl"}},
		"two":            {with(t, `"b": 1, "a": null`), []string{"a", "b"}},
		"escape":         {with(t, `"a\u001b[2J": 1`), []string{"a?[2J"}},
		"long":           {with(t, `"`+strings.Repeat("k", 300)+`": 1`), []string{strings.Repeat("k", 125) + "…"}},
		"known critical": {with(t, `"critical": ["offload.mdns", "ports.mtu", "nat"]`), nil},
		"none critical":  {with(t, `"critical": [], "turbo": 1`), []string{"turbo"}},
		"this version":   {with(t, `"version": 1`), nil},
	} {
		c, err := ParseConfig(tt.data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !slices.Equal(c.Ignored, tt.ignored) {
			t.Errorf("%s: ignored %q, want %q", name, c.Ignored, tt.ignored)
		}
		if c.Name != "edge" || c.Digest != Digest(tt.data) {
			t.Errorf("%s: read %+v", name, c)
		}
	}
	for name, tt := range map[string]struct {
		data []byte
		want string
	}{
		"critical":           {with(t, `"critical": ["seal"], "seal": true`), `"seal": this card does not know the key`},
		"critical in a list": {with(t, `"critical": ["publish.acl"]`), `"publish.acl"`},
		"critical under one": {with(t, `"critical": ["name.acl"]`), `"name.acl"`},
		"critical address":   {with(t, `"critical": ["dns.z"]`), `"dns.z"`},
		"critical nothing":   {with(t, `"critical": [""]`), `""`},
		"many critical":      {with(t, `"critical": ["nat"`+strings.Repeat(`,"nat"`, 64)+`]`), "65 keys"},
		"newer format":       {with(t, `"version": 2, "links": "pci0"`), "version: 2, this card reads versions up to 1"},
		"negative version":   {with(t, `"version": -1`), "version: -1"},
	} {
		if _, err := ParseConfig(tt.data); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	many := make([]string, 100)
	for i := range many {
		many[i] = `"k` + strings.Repeat("x", i) + `": 1`
	}
	c, err := ParseConfig(with(t, strings.Join(many, ", ")))
	if err != nil || len(c.Ignored) != maxIgnored {
		t.Errorf("%d keys are named, %v; want %d", len(c.Ignored), err, maxIgnored)
	}
}

// TestCriticalKeys: those that are set and tagged are listed, and only those.
func TestCriticalKeys(t *testing.T) {
	type inner struct {
		Trust bool `json:"trust,omitempty" critical:"true"`
		Other int  `json:"other"`
	}
	type outer struct {
		In   inner    `json:"in"`
		List []inner  `json:"list"`
		To   *inner   `json:"to"`
		ACL  []string `json:"acl" critical:"true"`
	}
	v := outer{In: inner{Trust: true, Other: 1}, List: []inner{{}, {Trust: true}}, ACL: []string{"a"}}
	if got := criticalKeys(reflect.ValueOf(v), ""); !slices.Equal(got, []string{"in.trust", "list.trust", "acl"}) {
		t.Errorf("critical %q", got)
	}
	if got := criticalKeys(reflect.ValueOf(outer{To: &inner{}}), ""); len(got) != 0 {
		t.Errorf("of nothing: %q", got)
	}
}

// rawCard answers every call with the same bytes.
func rawCard(t *testing.T, k Keys, contentType string, code int, body []byte) *Client {
	t.Helper()
	conf, err := ServerTLS(k)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(code)
		_, _ = w.Write(body)
	}))
	s.TLS, s.EnableHTTP2 = conf, true
	s.StartTLS()
	t.Cleanup(s.Close)
	c, err := Dial(s.Listener.Addr().(*net.TCPAddr).AddrPort(), k, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// TestStatusOfOldCard: its answer is read, and what it does not have is empty.
func TestStatusOfOldCard(t *testing.T) {
	c := rawCard(t, keys(t), "application/proto", http.StatusOK, golden(t, "status-v1.binpb"))
	st, err := c.Status(context.Background(), &cardpb.StatusRequest{HostTimeUnixNano: 1})
	if err != nil {
		t.Fatal(err)
	}
	if st.Name != "edge" || st.Health != cardpb.Health_HEALTH_DEGRADED || st.Offload.Tcp.Drops["queue full"] != 5 {
		t.Errorf("read %v", st)
	}
	if st.Configuration.GetDigest() != "" || st.BootId != "" || st.ImageDigest != "" || len(st.Capabilities) != 0 {
		t.Errorf("an old card has none of these: %v", st)
	}
}

func oldProtocol(t *testing.T) protoreflect.FileDescriptor {
	t.Helper()
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(golden(t, "protocol-v1.binpb"), &set); err != nil {
		t.Fatal(err)
	}
	f, err := protodesc.NewFile(set.File[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestStatusForOldHost: a host from before the new fields reads the answer of
// this card.
func TestStatusForOldHost(t *testing.T) {
	data, err := proto.Marshal(&cardpb.StatusResponse{
		Name: "edge", Health: cardpb.Health_HEALTH_HEALTHY, ImageDigest: "00", BootId: "1", Capabilities: []string{CapIgnore},
		Configuration: &cardpb.Configuration{Version: 1, Digest: "ff", Ignored: []string{"a"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	desc := oldProtocol(t).Messages().ByName("StatusResponse")
	old := dynamicpb.NewMessage(desc)
	if err := proto.Unmarshal(data, old); err != nil {
		t.Fatal(err)
	}
	if got := old.Get(desc.Fields().ByName("name")).String(); got != "edge" {
		t.Errorf("name %q", got)
	}
	if got := old.Get(desc.Fields().ByName("health")).Enum(); got != 2 {
		t.Errorf("health %d", got)
	}
}

// TestProtocolOnlyGrows: calls, fields and values of the old protocol are still
// there, with the same numbers and types.
func TestProtocolOnlyGrows(t *testing.T) {
	old, now := oldProtocol(t), cardpb.File_control_proto
	for i := range old.Messages().Len() {
		was := old.Messages().Get(i)
		is := now.Messages().ByName(was.Name())
		if is == nil {
			t.Errorf("message %s is gone", was.Name())
			continue
		}
		for j := range was.Fields().Len() {
			w := was.Fields().Get(j)
			n := is.Fields().ByNumber(w.Number())
			if n == nil || n.Name() != w.Name() || n.Kind() != w.Kind() || n.Cardinality() != w.Cardinality() || n.IsMap() != w.IsMap() {
				t.Errorf("%s was %v, is %v", w.FullName(), w, n)
			}
		}
	}
	was, is := old.Services().Get(0), now.Services().Get(0)
	for i := range was.Methods().Len() {
		w := was.Methods().Get(i)
		n := is.Methods().ByName(w.Name())
		if n == nil || n.Input().Name() != w.Input().Name() || n.Output().Name() != w.Output().Name() || n.IsStreamingServer() != w.IsStreamingServer() {
			t.Errorf("call %s was %v, is %v", w.Name(), w, n)
		}
	}
	health := old.Enums().ByName("Health")
	for i := range health.Values().Len() {
		w := health.Values().Get(i)
		if n := now.Enums().ByName("Health").Values().ByNumber(w.Number()); n == nil || n.Name() != w.Name() {
			t.Errorf("%s was %d, is %v", w.Name(), w.Number(), n)
		}
	}
}
