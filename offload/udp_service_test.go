package offload

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func published(source bool) Config {
	return Config{Publish: []Publish{{
		Protocol: "udp", Port: 53, CardSource: source,
		To4: netip.MustParseAddrPort(at(hostAddr4, 5353)), To6: netip.MustParseAddrPort(at(hostAddr6, 5353)),
	}}}
}

func TestUDPPublished(t *testing.T) {
	r := newTrial(t, published(false))
	r.card.ip("addr add 192.0.2.3/24 dev wan")
	for _, c := range []struct{ host, card, client string }{
		{hostAddr4, cardAddr4, worldAddr4},
		{hostAddr4, "192.0.2.3", worldAddr4},
		{hostAddr6, cardAddr6, worldAddr6},
	} {
		host := r.host.listen(at(c.host, 5353))
		client := r.world.dial(at(c.card, 53))
		for _, size := range []int{1, 60000} {
			if _, err := client.Write(pattern(size)); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 1<<16)
			n, from, err := host.ReadFromUDPAddrPort(buf)
			if err != nil {
				t.Fatal(err)
			}
			if want := client.LocalAddr().String(); from.String() != want {
				t.Errorf("the host sees %s, want the client %s", from, want)
			}
			_, _ = host.WriteToUDPAddrPort(buf[:n], from)
			// A connected socket receives from its peer's address only.
			if n, err = client.Read(buf); err != nil || !bytes.Equal(buf[:n], pattern(size)) {
				t.Fatalf("answer of %d bytes, %v, want %d", n, err, size)
			}
		}
		host.Close()
	}
}

// TestUDPPublishedSpeaksFirst: peers of a service see the published port, also when the service
// sends first.
func TestUDPPublishedSpeaksFirst(t *testing.T) {
	r := newTrial(t, published(false))
	host, world := r.host.listen(at(hostAddr4, 5353)), r.world.listen(at(worldAddr4, 9))
	buf := make([]byte, 10)
	for range 3 {
		_, _ = host.WriteToUDPAddrPort([]byte("x"), netip.MustParseAddrPort(at(worldAddr4, 9)))
		_, from, err := world.ReadFromUDPAddrPort(buf)
		if err != nil || from.String() != at(cardAddr4, 53) {
			t.Fatalf("the peer sees %v, %v, want the published port", from, err)
		}
		_, _ = world.WriteToUDPAddrPort([]byte("y"), from)
		if _, from, err = host.ReadFromUDPAddrPort(buf); err != nil || from.String() != at(worldAddr4, 9) {
			t.Fatalf("the host sees %v, %v", from, err)
		}
	}
	if s := r.stats(); s.Flows != 1 {
		t.Errorf("%d flows, want 1", s.Flows)
	}
}

func TestUDPPublishedWithTheCardsAddress(t *testing.T) {
	r := newTrial(t, published(true))
	host := r.host.listen(at(hostAddr4, 5353))
	clients := []*net.UDPConn{r.world.dial(at(cardAddr4, 53)), r.world.dial(at(cardAddr4, 53))}
	buf := make([]byte, 10)
	for i, c := range clients {
		_, _ = c.Write([]byte{byte(i)})
		n, from, err := host.ReadFromUDPAddrPort(buf)
		if err != nil || from.Addr().String() != "10.9.0.2" {
			t.Fatalf("the host sees %v, %v, want the card", from, err)
		}
		_, _ = host.WriteToUDPAddrPort(buf[:n], from)
		if _, err := c.Read(buf); err != nil || buf[0] != byte(i) {
			t.Fatalf("client %d gets %d, %v", i, buf[0], err)
		}
	}
}

// TestUDPPublishedFromTheHost: the host may use its own service through the
// card, which answers with its own address then.
func TestUDPPublishedFromTheHost(t *testing.T) {
	r := newTrial(t, published(false))
	host := r.host.listen(at(hostAddr4, 5353))
	client := r.host.dial(at(cardAddr4, 53))
	_, _ = client.Write([]byte("x"))
	buf := make([]byte, 10)
	n, from, err := host.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = host.WriteToUDPAddrPort(buf[:n], from)
	if _, err := client.Read(buf); err != nil {
		t.Fatal(err)
	}
}

// TestUDPPublishedNobodyThere: a client learns that the service is not running.
func TestUDPPublishedNobodyThere(t *testing.T) {
	r := newTrial(t, published(false))
	for _, card := range []string{cardAddr4, cardAddr6} {
		client := r.world.dial(at(card, 53))
		_, _ = client.Write([]byte("x"))
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: %v, want %v", card, err, unix.ECONNREFUSED)
		}
	}
}

// TestUDPPublishedCannotPushAway: clients can use a share of the table only.
func TestUDPPublishedCannotPushAway(t *testing.T) {
	r := newTrial(t, published(false))
	r.world.echo(7)
	r.loop.Do(func() { r.udp.limit = 64 })
	var own []*net.UDPConn
	for range 10 {
		c := r.host.dial(at(worldAddr4, 7))
		exchange(t, c, 1)
		own = append(own, c)
	}
	host := r.host.listen(at(hostAddr4, 5353))
	_ = host.SetDeadline(time.Now().Add(3 * time.Second))
	for range 100 {
		c := r.world.dial(at(cardAddr4, 53))
		_, _ = c.Write([]byte("x"))
		c.Close()
	}
	for range 100 {
		if _, err := host.Read(make([]byte, 10)); err != nil {
			t.Fatal(err, r.stats())
		}
	}
	s := r.stats()
	if s.Flows != 10+16 {
		t.Errorf("%d flows, want the host's 10 and a quarter of 64", s.Flows)
	}
	before := s.Opened
	for _, c := range own {
		exchange(t, c, 1)
	}
	if s := r.stats(); s.Opened != before {
		t.Error("flows of the host were pushed away")
	}
}

func TestUDPPublishChanges(t *testing.T) {
	r := newTrial(t, Config{})
	r.world.echo(7)
	// An endpoint of the host has the port.
	host := r.host.listen(at(hostAddr4, 5353))
	_, _ = host.WriteToUDPAddrPort([]byte("x"), netip.MustParseAddrPort(at(worldAddr4, 7)))
	_, _ = host.Read(make([]byte, 10))
	conf := Config{Links: []string{"pci0"}, Publish: []Publish{{Protocol: "udp", Port: 5000, To4: netip.MustParseAddrPort(at(hostAddr4, 5353))}}}
	for _, c := range []Config{conf, {}, conf, conf} {
		var err error
		r.loop.Do(func() { err = r.udp.configure(c) })
		if err != nil {
			t.Fatal(err)
		}
	}
	client := r.world.dial(at(cardAddr4, 5000))
	_, _ = client.Write([]byte("x"))
	if _, from, err := host.ReadFromUDPAddrPort(make([]byte, 10)); err != nil || from.String() != client.LocalAddr().String() {
		t.Fatalf("the host sees %v, %v", from, err)
	}
}
