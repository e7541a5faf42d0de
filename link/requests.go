package link

import (
	"encoding/json"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/fds"
)

// Requests is a device with one ring of requests, such as a disk, as its worker process serves it.
// One goroutine calls it.
type Requests interface {
	// Offer tells the features that the driver accepted.
	Offer(features uint64)
	// Serve executes one request. The segments are in the card's memory, those to read before
	// those to write; it may change the slices. It returns the number of bytes written, or an
	// error that is a vring.ErrChain for a chain that is no request.
	Serve(read, write []unix.Iovec) (written int, err error)
	Close()
}

// RequestsConfig opens a device of requests in its worker.
type RequestsConfig struct {
	// Open gets the value and the descriptors of Kind.Setup. It replaces each descriptor that it
	// keeps by -1.
	Open func(setup json.RawMessage, fds []int, w Worker) (Requests, error)
	Most int // bytes of a request with its data
}

// Worker is what a device of requests may ask of the worker that serves it, during Serve.
type Worker interface {
	// Report sends news to the keeper.
	Report(err error)
	// Call calls the driver for the requests before this one, which will take long.
	Call()
}

// ServeRequests serves the orders of a keeper until it hangs up. It calls confine, if not nil, after
// Open, before the first request.
//
// Requests are executed one after the other and completed in order, each before the next is taken.
// So the used index in the card's memory is the complete state of the device: a worker that takes
// over continues there. It executes again at most the one request that its predecessor had taken and
// not completed. That is safe for a disk. A request that is executed twice leaves the same data,
// nothing was executed in between, and the driver, which has no answer yet, relies on neither.
func ServeRequests(orders int, c RequestsConfig, confine Confine) error {
	w := &worker{orders: orders, confine: confine}
	w.open = func(setup json.RawMessage, passed []int) (served, error) {
		runtime.GOMAXPROCS(2)
		r := &requests{worker: w, iov: make([]unix.Iovec, 0, maxIov)}
		dev, err := c.Open(setup, passed, r)
		if err != nil {
			return nil, err
		}
		r.dev = dev
		r.ring.kind = ringKind{both: true, most: c.Most}
		r.ring.ctr = new(counters)
		if err := r.open(w.report, &r.ring); err != nil {
			fds.Close([]int{r.epoll, r.wake})
			dev.Close()
			return nil, err
		}
		return r, nil
	}
	return w.work()
}

// requests is the queue of a device with one ring.
type requests struct {
	queue
	worker *worker
	dev    Requests
	ring   virtqueue
	iov    []unix.Iovec
	// uncalled is the work that was completed since the last call, in bytes. The driver sees it, and
	// is called when nothing else waits or when it is much: a call interrupts the card, which mostly
	// waits for all requests that it has made together.
	uncalled int
}

// callAfter bounds uncalled.
const callAfter = 1 << 20

func (r *requests) run()             { go r.loop() }
func (r *requests) queues() []*queue { return []*queue{&r.queue} }
func (r *requests) offer(f uint64)   { r.do(func() { r.dev.Offer(f) }) }
func (r *requests) close()           { r.dev.Close() }

// loop serves requests until quit is set.
func (r *requests) loop() {
	runtime.LockOSThread()
	debug.SetPanicOnFault(true) // as in queuePair.run
	for !r.quit {
		if r.posted.Load() {
			r.runOrders()
			continue
		}
		if r.laps++; r.laps%lookAgain == 0 {
			r.recall(0)
		}
		if r.turn() {
			continue
		}
		r.Call()
		if r.settle() {
			continue
		}
		r.sleep()
	}
}

func (r *requests) serving() bool { return r.ring.running() && r.ring.enabled }

// turn serves the next request. It reports whether there was one.
func (r *requests) turn() bool {
	e := &r.ring
	if !r.serving() {
		return false
	}
	n, err := e.ring.Waiting()
	if err == nil && n == 0 {
		return false
	}
	var head uint16
	size, work := 0, 0
	if err == nil {
		head, size, work, err = r.next()
	}
	if err != nil {
		if r.chainError(e, head, err) {
			e.publish()
		}
		return true
	}
	e.bad = 0
	e.ring.Complete(head, size)
	e.ring.Show()
	if r.uncalled += work; r.uncalled >= callAfter {
		r.Call()
	}
	return true
}

func (r *requests) Report(err error) { r.worker.report(-1, err) }

// Call calls the driver for what was completed, if it wants a call.
func (r *requests) Call() {
	if r.uncalled > 0 && r.ring.running() {
		r.ring.publish()
	}
	r.uncalled = 0
}

// next takes and executes a request. It returns the bytes written and the bytes of the whole.
func (r *requests) next() (head uint16, size, work int, err error) {
	head, read, write, err := r.ring.ring.TakeRequest(r.iov)
	if err != nil {
		return head, 0, 0, err
	}
	for _, iov := range [][]unix.Iovec{read, write} {
		for i := range iov {
			work += int(iov[i].Len)
		}
	}
	size, err = r.dev.Serve(read, write)
	return head, size, work, err
}

// settle enables kicks and reports whether a request has arrived meanwhile.
func (r *requests) settle() bool { return r.serving() && r.ring.ring.WantKicks() }
