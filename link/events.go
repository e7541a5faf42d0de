package link

import "sync"

// mostEvents bounds the events that wait for delivery. More are dropped.
const mostEvents = 256

// events delivers events in order from its own goroutine, so that the sender may hold locks and the
// receiver may write files.
type events struct {
	notify func(Event) // may be nil

	mu      sync.Mutex // guards waiting and ended
	waiting []Event
	ended   bool
	more    sync.Cond
	done    chan struct{}
}

func newEvents(notify func(Event)) *events {
	e := &events{notify: notify, done: make(chan struct{})}
	e.more.L = &e.mu
	go e.run()
	return e
}

func (e *events) add(v Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.notify == nil || e.ended || len(e.waiting) >= mostEvents {
		return
	}
	e.waiting = append(e.waiting, v)
	e.more.Signal()
}

func (e *events) run() {
	defer close(e.done)
	for {
		e.mu.Lock()
		for len(e.waiting) == 0 && !e.ended {
			e.more.Wait()
		}
		now := e.waiting
		e.waiting = nil
		e.mu.Unlock()
		if len(now) == 0 {
			return
		}
		for _, v := range now {
			e.notify(v)
		}
	}
}

// end waits until all events are delivered.
func (e *events) end() {
	e.mu.Lock()
	e.ended = true
	e.more.Signal()
	e.mu.Unlock()
	<-e.done
}
