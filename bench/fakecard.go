package bench

import (
	"errors"
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/frame"
	"github.com/toe-project/toe/link/vhostuser"
)

// fakeCard is the card's side of one link as a polling program: no kernel, no
// TCP, so that what is measured is the pump.
type fakeCard struct {
	frontEnd
	mem    []byte
	memfd  int
	rx, tx *driverRing
}

const buffersAt = 2 * ringBytes

// slot is the room for one packet and what stands before it, in bytes.
func slot(size int) int { return (frame.SeamLen + size + 63) &^ 63 }

// newFakeCard connects to the vhost-user socket at path and starts both rings:
// rx has buffers of rxSize bytes that are not available yet, tx packets that
// are not sent yet.
func newFakeCard(path string, packet []byte, rxSize int) (c *fakeCard, err error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	card := &fakeCard{frontEnd: frontEnd{conn}, memfd: -1}
	c = card
	defer func() {
		if err != nil {
			card.close()
		}
	}()
	txSlot := slot(len(packet))
	txAt := buffersAt + ringSize*rxSize
	total := (txAt + ringSize*txSlot + 4095) &^ 4095
	if err := c.allocate(total); err != nil {
		return nil, err
	}
	for i := range ringSize {
		c.rx.describe(i, uint64(buffersAt+i*rxSize), uint32(rxSize), true)
		at := txAt + i*txSlot
		copy(c.mem[at:], cardFrame(packet))
		c.tx.describe(i, uint64(at), uint32(frame.SeamLen+len(packet)), false)
	}
	if err := c.negotiate(); err != nil {
		return nil, err
	}
	if err := c.share(c.memfd, c.rx.base, uint64(total)); err != nil {
		return nil, err
	}
	if err := errors.Join(c.start(0, c.rx), c.start(1, c.tx)); err != nil {
		return nil, err
	}
	// The answer to whatever question comes behind all that was said before:
	// until a ring is enabled its packets are thrown away.
	_, err = c.ask(vhostuser.GetQueueNum, nil)
	return c, err
}

func (c *fakeCard) allocate(total int) (err error) {
	if c.memfd, err = unix.MemfdCreate("toe-bench-card", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING); err != nil {
		return fmt.Errorf("memfd_create: %w", err)
	}
	if err = unix.Ftruncate(c.memfd, int64(total)); err != nil {
		return fmt.Errorf("memory of the fake card, %d bytes: %w", total, err)
	}
	if _, err = unix.FcntlInt(uintptr(c.memfd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW); err != nil {
		return fmt.Errorf("memory of the fake card: F_ADD_SEALS: %w", err)
	}
	if c.mem, err = unix.Mmap(c.memfd, 0, total, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		return fmt.Errorf("memory of the fake card: mmap of %d bytes: %w", total, err)
	}
	if c.rx, err = newDriverRing(c.mem[:ringBytes]); err != nil {
		return err
	}
	c.tx, err = newDriverRing(c.mem[ringBytes:buffersAt])
	return err
}

func (c *fakeCard) close() {
	c.conn.Close()
	for _, r := range []*driverRing{c.rx, c.tx} {
		if r != nil {
			r.close()
		}
	}
	if c.mem != nil {
		unix.Munmap(c.mem)
	}
	if c.memfd >= 0 {
		unix.Close(c.memfd)
	}
}

// buffers is how many receive buffers the packet that was put into the next
// one takes: num_buffers of its virtio header.
func (c *fakeCard) buffers(rxSize int, index uint16) uint16 {
	at := buffersAt + int(index%ringSize)*rxSize
	return *(*uint16)(unsafe.Pointer(&c.mem[at+10]))
}

// cardFrame is an IP packet as a card sends it.
func cardFrame(packet []byte) []byte {
	b := make([]byte, frame.SeamLen, frame.SeamLen+len(packet))
	b[frame.SeamLen-2] = 0x08 // IPv4
	return append(b, packet...)
}

// ipPacket is a UDP packet of size bytes, its header's checksum included, from
// and to networks made for tests (RFC 2544), where it goes nowhere.
func ipPacket(size int) []byte {
	b := make([]byte, size)
	b[0], b[2], b[3], b[8], b[9] = 0x45, byte(size>>8), byte(size), 64, unix.IPPROTO_UDP
	copy(b[12:], []byte{198, 18, 0, 1, 198, 19, 0, 1})
	udp := size - 20
	copy(b[20:], []byte{0x13, 0x88, 0x13, 0x89, byte(udp >> 8), byte(udp)})
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	sum = sum&0xffff + sum>>16
	sum = sum&0xffff + sum>>16
	b[10], b[11] = byte(^sum>>8), byte(^sum)
	return b
}
