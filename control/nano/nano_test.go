package nano

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
)

// The vectors are of the algorithm's reference implementation: key 00 01 … 0f, message 00 01 ….
func TestCode(t *testing.T) {
	var key Key
	for i := range key {
		key[i] = byte(i)
	}
	message := make([]byte, 15)
	for i := range message {
		message[i] = byte(i)
	}
	for n, want := range map[int]uint64{0: 0x726fdb47dd0e0e31, 8: 0x93f5f5799a932462, 15: 0xa129ca6149be45e5} {
		if got := key.code(message[:n]); got != want {
			t.Errorf("%d bytes: %#x, want %#x", n, got, want)
		}
	}
}

func config() *control.Config {
	return &control.Config{
		Name: "a", NAT: true,
		Links: []control.Link{{Name: "pci0", MAC: "02:00:00:00:00:01", Card: []netip.Prefix{netip.MustParsePrefix("10.116.0.3/31"), netip.MustParsePrefix("fd74::3/127")}}},
		Ports: []control.Port{{
			Name: "wan", MAC: "02:00:00:00:00:02", MTU: 1400, Addresses: []string{"192.0.2.7/24"},
			Gateway: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		}},
	}
}

func TestFile(t *testing.T) {
	key := NewKey()
	data, err := File(config(), key)
	if err != nil {
		t.Fatal(err)
	}
	var kinds string
	for r := range recordsOf(data) {
		kinds += string(r[0])
	}
	if kinds != "KMLAAPAG" {
		t.Errorf("records %s", kinds)
	}
	port := data[5*recordSize:]
	if binary.BigEndian.Uint16(port[2:]) != 1400 || !bytes.Equal(port[4:10], []byte{2, 0, 0, 0, 0, 2}) || string(port[16:20]) != "wan\x00" {
		t.Errorf("port % x", port[:recordSize])
	}
	if gateway := data[7*recordSize:]; gateway[1] != 1 || gateway[2] != 4 || !bytes.Equal(gateway[16:20], []byte{192, 0, 2, 1}) {
		t.Errorf("gateway % x", gateway)
	}
	c := config()
	c.Ports[0].Addresses = []string{"dhcp"}
	if _, err := File(c, key); err == nil {
		t.Error("dhcp was taken")
	}
	c = config()
	for range 10 {
		c.Ports = append(c.Ports, c.Ports[0])
	}
	if _, err := File(c, key); err == nil || !strings.Contains(err.Error(), "10 at most") {
		t.Errorf("12 devices: %v", err)
	}
}

func recordsOf(data []byte) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for ; len(data) > 0 && yield(data[:recordSize]); data = data[recordSize:] {
		}
	}
}

// reply is what init.c sends.
func reply(q []byte, key Key, errnos ...uint32) []byte {
	b := append([]byte("toe!"), q[4:headSize]...)
	b = binary.BigEndian.AppendUint64(b, 1500)
	b = binary.BigEndian.AppendUint32(b, uint32(len(errnos)))
	for _, e := range errnos {
		b = binary.BigEndian.AppendUint32(b, e)
	}
	return binary.BigEndian.AppendUint64(b, key.code(b))
}

func TestParseAnswer(t *testing.T) {
	key := NewKey()
	q := question(status, 7, key)
	good := reply(q, key, 0, 19)
	a, err := parseAnswer(good, q, key)
	if err != nil || a.uptime != 1500*time.Millisecond || len(a.errors) != 2 || a.errors[1] != syscall.ENODEV {
		t.Fatalf("%+v, %v", a, err)
	}
	for name, b := range map[string][]byte{
		"empty": nil, "short": good[:len(good)-1], "long": append(bytes.Clone(good), 0),
		"another question's": reply(question(status, 8, key), key, 0, 0),
		"another kind's":     reply(question(reboot, 7, key), key, 0, 0),
		"another key's":      reply(q, NewKey(), 0, 0),
		"the question":       q,
	} {
		if _, err := parseAnswer(b, q, key); err == nil {
			t.Errorf("%s answer was taken", name)
		}
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		if _, err := parseAnswer(bad, q, key); err == nil {
			t.Errorf("a change of byte %d was not noticed", i)
		}
	}
}

func FuzzParseAnswer(f *testing.F) {
	key := Key{1}
	q := question(status, 7, key)
	f.Add(reply(q, key, 0, 19))
	f.Add(q)
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := parseAnswer(b, q, key); err == nil && len(a.errors) > maxDevices {
			t.Error("more devices than a card has")
		}
		// With a valid code, as a holder of the key would send it.
		if len(b) >= codeSize {
			signed := binary.BigEndian.AppendUint64(bytes.Clone(b[:len(b)-codeSize]), key.code(b[:len(b)-codeSize]))
			if a, err := parseAnswer(signed, q, key); err == nil && len(a.errors) > maxDevices {
				t.Error("more devices than a card has")
			}
		}
	})
}

// TestClient speaks with a card that loses the first question and answers a wrong key's first.
func TestClient(t *testing.T) {
	card, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	c := &Client{}
	c.Dial(netip.MustParseAddr("127.0.0.1"), func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, card.LocalAddr().String())
	})
	if _, err := c.Configure(config(), "7.3.4-toe"); err != nil {
		t.Fatal(err)
	}
	key := c.key
	go func() {
		buf := make([]byte, 100)
		for n := 0; ; n++ {
			size, from, err := card.ReadFrom(buf)
			if err != nil {
				return
			}
			if n == 0 {
				continue
			}
			q := bytes.Clone(buf[:size])
			_, _ = card.WriteTo(reply(q, NewKey(), 5, 5), from)
			_, _ = card.WriteTo(reply(q, key, 0, 19), from)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	st, err := c.Status(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if st.Health != cardpb.Health_HEALTH_DEGRADED || len(st.Components) != 2 || len(st.Reasons) != 1 ||
		st.Reasons[0].Component != "port wan" || !strings.Contains(st.Reasons[0].Detail, "no such device") || st.Kernel != "7.3.4-toe" {
		t.Errorf("%v", st)
	}
	if _, err := c.Reboot(ctx, nil); err != nil {
		t.Error(err)
	}
	if _, err := c.Apply(ctx, nil); err == nil || !strings.Contains(err.Error(), "the nano edition has no apply") {
		t.Errorf("apply: %v", err)
	}
	if _, err := c.Capture(ctx, nil); err == nil || !strings.Contains(err.Error(), "the nano edition has no capture") {
		t.Errorf("capture: %v", err)
	}
	if _, err := c.Configure(config(), "x"); err != nil || c.key == key {
		t.Errorf("the key of the next life is the same, or %v", err)
	}
	soon, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := c.Status(soon, nil); err == nil {
		t.Error("an answer with the key of an earlier life was taken")
	}
}
