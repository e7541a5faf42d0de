package agent

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"strconv"
	"testing"
	"time"
)

// benchFar starts BenchServe on the loopback and gives its address.
func benchFar(t *testing.T) string {
	t.Helper()
	needNamespace(t)
	loopbackUp(t)
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := probe.Addr().String()
	probe.Close()
	in, hangUp := io.Pipe()
	said, out := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- BenchServe(address, in, out) }()
	t.Cleanup(func() {
		hangUp.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	if line, err := bufio.NewReader(said).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("said %q, %v", line, err)
	}
	return address
}

func benchOrderOf(t *testing.T, address string, mode byte, numbers ...uint16) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(5 * time.Second))
	b := []byte{mode}
	for _, n := range numbers {
		b = binary.BigEndian.AppendUint16(b, n)
	}
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// freeUDP is an unused port.
func freeUDP(t *testing.T) uint16 {
	t.Helper()
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	return uint16(u.LocalAddr().(*net.UDPAddr).Port)
}

func TestBenchCountsDatagrams(t *testing.T) {
	port := freeUDP(t)
	c := benchOrderOf(t, benchFar(t), 'c', port, 36)
	var answer [8]byte
	if _, err := io.ReadFull(c, answer[:1]); err != nil || answer[0] != 0 {
		t.Fatalf("%v, %v", answer[0], err)
	}
	u, err := net.Dial("udp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	const sent = 100
	for range sent {
		if _, err := u.Write(make([]byte, 36)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, answer[:]); err != nil || binary.BigEndian.Uint64(answer[:]) != sent {
		t.Errorf("counted %d of %d, %v", binary.BigEndian.Uint64(answer[:]), sent, err)
	}
}

func TestBenchSendsDatagrams(t *testing.T) {
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	c := benchOrderOf(t, benchFar(t), 'u', uint16(u.LocalAddr().(*net.UDPAddr).Port), 36)
	buf := make([]byte, 100)
	for range 200 {
		u.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, _, err := u.ReadFrom(buf); err != nil || n != 36 {
			t.Fatalf("%d bytes, %v, want 36", n, err)
		}
	}
	c.Close()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		u.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if _, _, err := u.ReadFrom(buf); err != nil {
			return // it has stopped
		}
	}
	t.Error("it sends on after the connection has ended")
}

func TestBenchEchoes(t *testing.T) {
	c := benchOrderOf(t, benchFar(t), 'e')
	var b [1]byte
	for i := range byte(3) {
		if _, err := c.Write([]byte{i}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, b[:]); err != nil || b[0] != i {
			t.Fatalf("%d came back as %d, %v", i, b[0], err)
		}
	}
}

func TestBenchRefusesWhatItDoesNotKnow(t *testing.T) {
	c := benchOrderOf(t, benchFar(t), 'x')
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("answered with %d bytes", n)
	}
}
