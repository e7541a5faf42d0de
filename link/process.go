package link

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/fds"
	"github.com/toe-project/toe/link/vhostuser"
)

// Process is a running pump.
type Process interface {
	PID() int
	Kill() // at once, by force
	// Wait returns when it has ended, and why in a few words.
	Wait() string
}

// PumpVerb is the hidden verb that makes the program a pump. Its orders
// arrive on descriptor 3.
const PumpVerb = "pump-worker"

// Time limits for a pump.
const (
	// answerWithin bounds the answer to an order. The longest order maps a card's memory and
	// takes milliseconds.
	answerWithin = 5 * time.Second
	// endWithin bounds the exit of a pump after the keeper has hung up.
	endWithin = 2 * time.Second
	// dieWithin bounds the death of a killed pump. The kernel first unmaps the card's memory,
	// which takes milliseconds.
	dieWithin = 5 * time.Second
)

// running is a pump and the keeper's end of its socket.
type running struct {
	process Process
	seq     uint64
	within  time.Duration // for an answer to an order
	answers chan answer
	news    chan string   // closed when the pump has hung up
	pairs   atomic.Int64  // queue pairs that the driver wants to use, from the last news; 0 if none
	gone    chan struct{} // closed when the process is dead

	mu     sync.Mutex // guards the descriptor's end
	orders int        // -1 when closed
}

// hangUp makes the pump's next read end.
func (r *running) hangUp() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.orders >= 0 {
		unix.Shutdown(r.orders, unix.SHUT_RDWR)
	}
}

// closeOrders closes the keeper's end. No order may follow.
func (r *running) closeOrders() {
	r.mu.Lock()
	defer r.mu.Unlock()
	unix.Close(r.orders)
	r.orders = -1
}

// refusal is the reason of a pump's negative answer.
type refusal string

func (r refusal) Error() string { return string(r) }

func start(launch func(*os.File) (Process, error), within time.Duration) (*running, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair for a worker: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "orders")
	defer theirs.Close()
	p, err := launch(theirs)
	if err != nil {
		unix.Close(pair[0])
		return nil, fmt.Errorf("start worker: %w", err)
	}
	r := &running{
		process: p, orders: pair[0], answers: make(chan answer, 1), news: make(chan string, 16),
		gone: make(chan struct{}), within: within,
	}
	go func() { p.Wait(); close(r.gone) }()
	go r.listen(r.orders)
	return r, nil
}

// listen receives answers and news until the pump hangs up.
func (r *running) listen(orders int) {
	defer close(r.news)
	defer close(r.answers)
	for {
		var a answer
		passed, err := receivePacket(orders, &a)
		fds.Close(passed)
		if err != nil {
			return
		}
		if a.Seq != 0 {
			r.hand(a)
			continue
		}
		if a.Pairs > 0 {
			r.pairs.Store(int64(a.Pairs))
		}
		select {
		case r.news <- a.News:
		default: // full: a card cannot make the keeper buffer more news
		}
	}
}

// hand stores an answer for send. It replaces an answer that was not fetched, which belongs to an
// abandoned order or to none. A pump that makes up answers must not block listen, which detects the
// pump's end.
func (r *running) hand(a answer) {
	select {
	case r.answers <- a:
		return
	case <-r.answers:
	}
	r.answers <- a // only hand fills the channel, so there is room
}

// send sends one order and waits for its answer.
func (r *running) send(o order, files ...*os.File) (answer, error) {
	r.seq++
	o.Seq = r.seq
	if err := fds.Socket(r.orders).Send(o, files...); err != nil {
		return answer{}, fmt.Errorf("%w: order %s: %w", errNoPump, o.Op, err)
	}
	timer := time.NewTimer(r.within)
	defer timer.Stop()
	for {
		select {
		case a, ok := <-r.answers:
			switch {
			case !ok:
				return answer{}, fmt.Errorf("%w: it ended during order %s", errNoPump, o.Op)
			case a.Seq != o.Seq:
				continue // the answer to an abandoned order
			case a.Error != "":
				return a, refusal(a.Error)
			}
			return a, nil
		case <-timer.C:
			return answer{}, fmt.Errorf("%w: no answer to order %s in %s", errNoPump, o.Op, r.within)
		}
	}
}

func sendMemory(r *running, table []vhostuser.Region) error {
	o := order{Op: opMemory}
	files := make([]*os.File, 0, len(table))
	for _, t := range table {
		o.Regions = append(o.Regions, t)
		files = append(files, t.File)
	}
	_, err := r.send(o, files...)
	return err
}

func sendStart(r *running, i int, v vhostuser.Ring, resume bool) error {
	files := []*os.File{v.Kick}
	for _, f := range []*os.File{v.Call, v.Err} {
		if f != nil {
			files = append(files, f)
		}
	}
	_, err := r.send(order{
		Op: opStart, Index: i, Ring: &v, Resume: resume, HasCall: v.Call != nil, HasErr: v.Err != nil,
	}, files...)
	return err
}

func isRefusal(err error) bool {
	_, ok := err.(refusal)
	return ok
}

// end hangs up, which ends the pump. It kills the pump after endWithin.
func (r *running) end() {
	r.hangUp()
	select {
	case <-r.gone:
	case <-time.After(endWithin):
		r.process.Kill()
		<-r.gone
	}
}

// kill ends the pump by force and waits for its death. Until then it may work on the rings, the
// card's memory and the host's end, so none of them may be handed on. kill returns an error if the
// pump is not dead within the limit.
func (r *running) kill(within time.Duration) error {
	r.process.Kill()
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-r.gone:
	case <-timer.C:
		return fmt.Errorf("process %d is not dead %s after it was killed", r.process.PID(), within)
	}
	r.hangUp()
	for range r.answers { // until listen has read everything
	}
	return nil
}

// LaunchProcess starts this program anew as a pump.
func LaunchProcess(orders *os.File) (Process, error) { return LaunchVerb(PumpVerb, orders) }

// LaunchVerb starts this program anew with a hidden verb that makes it a worker.
func LaunchVerb(verb string, orders *os.File) (Process, error) {
	cmd := exec.Command("/proc/self/exe", verb)
	cmd.Args[0] = "toe"
	cmd.ExtraFiles = []*os.File{orders}
	cmd.Stderr = os.Stderr
	// A program linked with the C library (a -race build; toe itself is not)
	// counts the CPUs in /sys for every new thread's memory arena. That open
	// would kill a confined pump. With one arena it does not happen.
	cmd.Env = []string{"GOTRACEBACK=single", "MALLOC_ARENA_MAX=1"}
	// Setsid: the keeper, not the pump, handles a terminal's Ctrl-C.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The death signal is tied to the thread that forks, so this
		// thread lives as long as the pump.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		// A pump must not inherit descriptors that were passed to this process
		// or left open by its parent. Those in ExtraFiles are passed
		// nevertheless.
		err := fds.CloseOnExecFrom(3)
		if err == nil {
			err = cmd.Start()
		}
		started <- err
		if err == nil {
			cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

type process struct {
	cmd  *exec.Cmd
	done chan struct{}
}

func (p *process) PID() int { return p.cmd.Process.Pid }
func (p *process) Kill()    { p.cmd.Process.Kill() }

func (p *process) Wait() string {
	<-p.done
	return p.cmd.ProcessState.String()
}
