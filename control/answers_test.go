package control

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/toe-project/toe/control/cardpb"
)

const escape = "\x1b]0;owned\a\u202e\u0085"

// hostile answers with all that a card may not do to its host.
type hostile struct {
	cardpb.UnimplementedCardHandler
}

func (hostile) Status(context.Context, *cardpb.StatusRequest) (*cardpb.StatusResponse, error) {
	long := strings.Repeat("ä", maxText)
	st := &cardpb.StatusResponse{
		Health: 99, Name: escape, Kernel: long, UptimeSeconds: math.NaN(), ReadySeconds: math.Inf(-1),
		Reasons:       []*cardpb.Reason{{Component: escape, Detail: escape}},
		Configuration: &cardpb.Configuration{Digest: escape, Ignored: []string{escape}},
		Offload:       &cardpb.Offload{Tcp: &cardpb.OffloadTCP{Drops: map[string]uint64{escape: 1, "fine": 2, long: 3}}},
	}
	for i := range 1000 {
		st.Capabilities = append(st.Capabilities, fmt.Sprint(i))
		st.Interfaces = append(st.Interfaces, &cardpb.Interface{Name: escape})
		st.Offload.Tcp.Drops[fmt.Sprint(i)] = 1
	}
	return st, nil
}

func (hostile) Apply(context.Context, *cardpb.ApplyRequest) (*cardpb.ApplyResponse, error) {
	return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New(escape+strings.Repeat("x", 2*maxText)))
}

func (hostile) Logs(_ context.Context, _ *cardpb.LogsRequest, out *connect.ServerStream[cardpb.LogLine]) error {
	if err := out.Send(&cardpb.LogLine{Source: escape, Text: escape}); err != nil {
		return err
	}
	return connect.NewError(connect.CodeInternal, errors.New(escape))
}

func hostileClient(t *testing.T) *Client {
	t.Helper()
	k := keys(t)
	conf, err := ServerTLS(k)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(cardpb.NewCardHandler(hostile{}))
	s := httptest.NewUnstartedServer(mux)
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

func printable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// TestHostileStatus: nothing in it steers a terminal, grows without bound or
// fails to become JSON.
func TestHostileStatus(t *testing.T) {
	st, err := hostileClient(t).Status(t.Context(), &cardpb.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{st.Name, st.Reasons[0].Detail, st.Configuration.Digest, st.Configuration.Ignored[0], st.Interfaces[9].Name} {
		if !printable(s) || !strings.Contains(s, "owned") {
			t.Errorf("text %q", s)
		}
	}
	if len(st.Kernel) > maxText || !strings.HasSuffix(st.Kernel, "…") || !printable(st.Kernel) {
		t.Errorf("kernel has %d bytes, ends in %q", len(st.Kernel), st.Kernel[len(st.Kernel)-4:])
	}
	if len(st.Capabilities) != maxEntries || len(st.Interfaces) != maxEntries {
		t.Errorf("%d capabilities, %d interfaces", len(st.Capabilities), len(st.Interfaces))
	}
	if len(st.Offload.Tcp.Drops) != maxCounts {
		t.Errorf("%d causes", len(st.Offload.Tcp.Drops))
	}
	for cause := range st.Offload.Tcp.Drops {
		if !printable(cause) || len(cause) > maxCount {
			t.Errorf("cause %q", cause)
		}
	}
	if st.Health != cardpb.Health_HEALTH_UNSPECIFIED {
		t.Errorf("health %v", st.Health)
	}
	if _, err := json.Marshal([]float64{st.UptimeSeconds, st.ReadySeconds}); err != nil {
		t.Error(err)
	}
}

// TestHostileErrors: neither does the text of a refusal, and its code stays.
func TestHostileErrors(t *testing.T) {
	c := hostileClient(t)
	_, err := c.Apply(t.Context(), &cardpb.ApplyRequest{})
	if err == nil || !printable(err.Error()) || len(err.Error()) > maxText || connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("refusal %q, code %v", err, connect.CodeOf(err))
	}
	stream, err := c.Logs(t.Context(), &cardpb.LogsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if !stream.Receive() || !printable(stream.Msg().Text+stream.Msg().Source) {
		t.Errorf("line %v, %v", stream.Msg(), stream.Err())
	}
	if stream.Receive() || stream.Err() == nil || !printable(stream.Err().Error()) {
		t.Errorf("the stream's end: %q", stream.Err())
	}
}

// TestHostileCertificate: the error of a handshake repeats names that the card
// wrote into its certificate.
func TestHostileCertificate(t *testing.T) {
	k := keys(t)
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := template("x")
	if err != nil {
		t.Fatal(err)
	}
	leaf.DNSNames = []string{"\x1b]0;owned\a"}
	raw, err := x509.CreateCertificate(rand.Reader, leaf, leaf, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{raw}, PrivateKey: key}}}
	s.StartTLS()
	t.Cleanup(s.Close)
	c, err := Dial(s.Listener.Addr().(*net.TCPAddr).AddrPort(), k, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err = c.Status(ctx, &cardpb.StatusRequest{}); err == nil || !printable(err.Error()) {
		t.Errorf("error %q", err)
	}
}

// FuzzScrub: any bytes that are a status are bounded and printable afterwards.
func FuzzScrub(f *testing.F) {
	f.Add(golden(f, "status-v1.binpb"))
	st, err := hostile{}.Status(context.Background(), nil)
	if err != nil {
		f.Fatal(err)
	}
	st.Name, st.Reasons, st.Configuration, st.Interfaces = "\n", nil, nil, st.Interfaces[:0]
	delete(st.Offload.Tcp.Drops, escape)
	data, err := proto.Marshal(st)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		st := new(cardpb.StatusResponse)
		if proto.Unmarshal(data, st) != nil {
			return
		}
		scrub(st.ProtoReflect())
		if !printable(st.Name) || len(st.Kernel) > maxText || len(st.Reasons) > maxEntries || len(st.Offload.GetTcp().GetDrops()) > maxCounts {
			t.Fatalf("left %v", st)
		}
		if _, err := json.Marshal([]float64{st.UptimeSeconds, st.ReadySeconds}); err != nil {
			t.Fatal(err)
		}
		again := proto.Clone(st).(*cardpb.StatusResponse)
		scrub(again.ProtoReflect())
		if !proto.Equal(st, again) {
			t.Fatal("a second scrub changes more")
		}
	})
}
