package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestPublish publishes services of the host and of toe exec on the wire, with the client's address
// or the card's, while the host's default route and a strict rp_filter point elsewhere.
func TestPublish(t *testing.T) {
	o := onWire(t, `publish:
  - {port: 80, to: 8080}
  - {port: 81, to: 8080, source: card}
  - {port: 82, to: 8080, in: exec}
  - {port: 7, protocol: udp, to: 7007}
  - {port: 9, protocol: udp, to: 7009}
`)
	for _, c := range [][]string{
		{"link", "add", "ext", "type", "veth", "peer", "name", "ext1"}, {"link", "set", "ext", "up"},
		{"addr", "add", "198.51.100.2/24", "dev", "ext"}, {"route", "replace", "default", "via", "198.51.100.1"},
	} {
		ip(t, append([]string{"-n", o.netns}, c...)...)
	}
	for _, who := range []string{"all", "toe0"} {
		sysctl(t, o.netns, "net/ipv4/conf/"+who+"/rp_filter", "1")
	}
	st := o.status(t, "card0")
	whoAsks(t, o.netns)
	whoAsks(t, o.inside(t))
	echoUDP(t, o.netns, netip.AddrPortFrom(st.Link.Host[0], 7007))
	echoUDP(t, o.netns, netip.AddrPortFrom(netip.IPv4Unspecified(), 7009)) // its answers have no source address yet
	const silence = "no answer"
	ask := func(address, port string) string {
		t.Helper()
		c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(_ context.Context, network, at string) (net.Conn, error) {
			return dialIn(o.far, network, at, 2*time.Second)
		}}}
		reply, err := c.Get("http://" + net.JoinHostPort(address, port))
		if err != nil {
			return silence // the card's firewall sends no answer
		}
		defer reply.Body.Close()
		body, _ := io.ReadAll(reply.Body)
		return string(body)
	}
	for _, c := range []struct{ address, port, want string }{
		{cardAddr, "80", worldAddr},
		{cardAddr6, "80", worldAddr6},
		{cardAddr, "81", st.Link.Card[0].String()},
		{cardAddr6, "81", st.Link.Card[1].String()},
		{cardAddr, "82", worldAddr},
		{cardAddr6, "82", worldAddr6},
	} {
		if got := ask(c.address, c.port); got != c.want {
			t.Errorf("port %s of %s: the service sees %q, want %s", c.port, c.address, got, c.want)
		}
	}
	if got := ask(cardAddr, "83"); got != silence {
		t.Errorf("a port that is not published: %s", got)
	}
	for _, port := range []string{"7", "9"} {
		answered(t, o.far, net.JoinHostPort(cardAddr, port))
	}

	// Without a published service of the host, the return route is gone.
	if rules := ip(t, "-n", o.netns, "rule"); !strings.Contains(rules, "7464:") {
		t.Errorf("rules: %s", rules)
	}
	o.mode(t, "endpoint", "publish: [{port: 82, to: 8080, in: exec}]\n")
	if rules := ip(t, "-n", o.netns, "rule"); strings.Contains(rules, "7464:") {
		t.Errorf("rules: %s", rules)
	}
	if got := ask(cardAddr, "80"); got != silence {
		t.Errorf("a port that is no longer published: %s", got)
	}
	if got := ask(cardAddr, "82"); got != worldAddr {
		t.Errorf("the one that still is: %s", got)
	}
	o.clean(t)
}

// whoAsks serves port 8080 of a namespace with the client's address.
func whoAsks(t *testing.T, netns string) {
	t.Helper()
	var l net.Listener
	if err := inNetns(netns, func() (err error) { l, err = net.Listen("tcp", ":8080"); return err }); err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		at, _ := netip.ParseAddrPort(r.RemoteAddr)
		fmt.Fprint(out, at.Addr().Unmap())
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close() })
}

func echoUDP(t *testing.T, netns string, at netip.AddrPort) {
	t.Helper()
	var c net.PacketConn
	if err := inNetns(netns, func() (err error) { c, err = net.ListenPacket("udp4", at.String()); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(buf[:n], from)
		}
	}()
}

// answered sends a datagram and expects it back.
func answered(t *testing.T, netns, address string) {
	t.Helper()
	c, err := dialIn(netns, "udp", address, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sent := bytes.Repeat([]byte("0123456789abcdef"), 2000) // in pieces on the wire, in one on the link
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write(sent); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 65536)
	if n, err := c.Read(got); err != nil || !bytes.Equal(got[:n], sent) {
		t.Errorf("%s: a datagram of %d bytes: %d bytes back, %v", address, len(sent), n, err)
	}
}
