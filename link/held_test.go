package link

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/vhostuser"
)

// A front end that fills the socket it is called over, reads nothing and takes O_NONBLOCK away does
// not hold the pump up.
func TestCallOverFullSocket(t *testing.T) {
	b := newBare(t)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	call := os.NewFile(uintptr(pair[1]), "call")
	defer call.Close()
	defer unix.Close(pair[0])
	clear(b.mem[:fuzzRing])
	b.send(order{Op: opStart, Index: 1, HasCall: true, Ring: &vhostuser.Ring{Size: fuzzSize, Enabled: true,
		Desc: fuzzUser, Avail: fuzzUser + 0x400, Used: fuzzUser + 0x800}}, b.kicks[1], call)
	if err := unix.SetNonblock(pair[1], false); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		err = unix.Sendto(pair[1], make([]byte, 64<<10), unix.MSG_DONTWAIT, nil)
	}
	b.send(order{Op: opRun, Index: 1}) // makes the pump call the driver
	b.send(order{Op: opStop, Index: 1})
}
