package disktest

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/disk"
	"github.com/toe-project/toe/link"
)

// Launch returns a function for disk.Options.Launch that runs the worker inside this process, with
// wrap, which may be nil, around its file. To kill it hangs up: the worker ends between two requests.
func Launch(wrap func(disk.File) disk.File) func(orders *os.File) (link.Process, error) {
	return func(orders *os.File) (link.Process, error) {
		fd, err := unix.FcntlInt(orders.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		p := &inside{fd: fd, done: make(chan struct{})}
		go func() {
			p.err = disk.Work(fd, nil, wrap)
			unix.Close(fd)
			close(p.done)
		}()
		return p, nil
	}
}

type inside struct {
	fd   int
	err  error // valid after done
	done chan struct{}
}

func (p *inside) PID() int { return os.Getpid() }

func (p *inside) Kill() {
	select {
	case <-p.done:
	default:
		unix.Shutdown(p.fd, unix.SHUT_RDWR)
	}
}

func (p *inside) Wait() string {
	<-p.done
	if p.err != nil {
		return p.err.Error()
	}
	return "ended"
}
