package e2e

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestOffloadFlood sends SYNs of clients that do not exist to a published port. None reaches the
// host, and real clients are served meanwhile.
func TestOffloadFlood(t *testing.T) {
	o := onWire(t, `publish:
  - {port: 90, to: 9090}
  - {port: 91, to: 9091}
`)
	ip(t, "-n", o.far, "route", "add", "blackhole", "203.0.113.192/26") // the answers to clients that do not exist
	st := o.status(t, "card0")
	l := world{o.netns}.listen(t, netip.AddrPortFrom(st.Link.Host[0], 9090).String())
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); echoSmall(c) }()
		}
	}()
	mac, err := net.ParseMAC(st.Ports[0].MAC)
	if err != nil {
		t.Fatal(err)
	}
	o.served(t)
	link := watchOn(t, o.netns, "toe0", false)
	n := scale(20_000, 200_000)
	began := time.Now()
	ended := make(chan error, 1)
	pour := func() { ended <- flood(o.far, "wan0", mac, 90, n) }
	go pour()
	var card map[string]int64
	asked, looks := 0, 0
	for flooding := true; flooding; {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
			card = parseCounters(o.onCard(t, "card0", "cat", "/proc/net/netstat", "/proc/net/snmp"))
			looks++ // each a connection of the host's own
			// On a busy machine the TAP's queue overflows. Then it tries again.
			if flooding = card["Tcp.InSegs"] < int64(n)/4 && time.Since(began) < 20*time.Second; flooding {
				go pour()
			}
		default:
			o.served(t)
			asked++
		}
	}
	took := time.Since(began)
	link.settle()
	seen := link.end()
	after := o.status(t, "card0")
	t.Logf("the card got %d segments and answered %d with a cookie", card["Tcp.InSegs"], card["TcpExt.SyncookiesSent"])
	if card["Tcp.InSegs"] < int64(n)/4 {
		t.Error("most of the flood has not reached the card: nothing was shown")
	}
	t.Logf("%d SYN or more in %s from addresses that do not answer; on the link %d SYN, those of %d clients that were served meanwhile, and %d of ssh; drops %v",
		n, took.Round(time.Millisecond), seen.opens, asked, looks, after.Offload.TCP.Drops)
	if seen.opens != asked+looks {
		t.Errorf("%d SYN on the link for %d clients", seen.opens-looks, asked)
	}
	if seen.sackIn > looks {
		t.Errorf("%d of them permit SACK: the host would probe", seen.sackIn-looks)
	}
	// A service that is down: the card has accepted before it can know, so the reset may come
	// before Go sees the connection.
	c, err := dialIn(o.far, "tcp", net.JoinHostPort(cardAddr, "91"), 5*time.Second)
	if err == nil {
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		_, err = io.ReadAll(c)
	}
	if !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("a published port without a service: %v, want a reset", err)
	}
	o.clean(t)
}

// served connects to the published port as a client.
func (o *offloaded) served(t *testing.T) {
	t.Helper()
	c, err := dialIn(o.far, "tcp", net.JoinHostPort(cardAddr, "90"), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := ask(c, "hello"); err != nil {
		t.Fatal(err)
	}
}

// flood sends n SYNs to a port of the card, from as many addresses and ports.
func flood(netns, iface string, to net.HardwareAddr, port uint16, n int) error {
	fd := -1
	err := inNetns(netns, func() (err error) { fd, err = packetSocket(iface); return err })
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	frame := make([]byte, 14+20+20)
	copy(frame, to)
	copy(frame[6:], []byte{2, 0, 0, 0, 0, 1})
	binary.BigEndian.PutUint16(frame[12:], unix.ETH_P_IP)
	head, segment := frame[14:34], frame[34:]
	copy(head, []byte{0x45, 0, 0, 40, 0, 0, 0, 0, 64, unix.IPPROTO_TCP, 0, 0, 203, 0, 113, 0})
	copy(head[16:], netip.MustParseAddr(cardAddr).AsSlice())
	binary.BigEndian.PutUint16(segment[2:], port)
	segment[12], segment[13] = 5<<4, 2 // SYN
	binary.BigEndian.PutUint16(segment[14:], 65535)
	for i := range n {
		head[15] = byte(192 + i%63)
		binary.BigEndian.PutUint16(segment, uint16(1024+i/63))
		binary.BigEndian.PutUint32(segment[4:], uint32(i)*2654435761)
		head[10], head[11], segment[16], segment[17] = 0, 0, 0, 0
		binary.BigEndian.PutUint16(head[10:], ^fold(addUp(0, head)))
		binary.BigEndian.PutUint16(segment[16:], ^fold(addUp(addUp(uint64(len(segment))+unix.IPPROTO_TCP, head[12:20]), segment)))
		if _, err := unix.Write(fd, frame); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
		if i%100 == 99 {
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}
