package supervisor

import (
	"fmt"
	"slices"
	"time"

	"github.com/toe-project/toe/card/status"
)

// The card's side decides how often some events of a device happen: a machine
// that was taken over can dial its socket hundreds of times a second. So a
// device has deviceBurst events in a deviceWindow, the rest is counted, and all
// devices together have half of the history.
const (
	maxHistory       = 32 // events that are kept
	maxDeviceHistory = maxHistory / 2
	deviceBurst      = 8
	deviceWindow     = 10 * time.Second
)

// history is what happened to a card, the oldest first.
type history struct {
	events []status.Event
	meters map[string]*meter // by device
}

// meter counts the events of a device in one window.
type meter struct {
	began  time.Time
	passed int
	held   int    // events that were not kept
	last   string // the last of these
	timer  *time.Timer
}

func newHistory() history { return history{meters: map[string]*meter{}} }

// add keeps an event. An event of a device makes room by the oldest of a device
// once these have their half.
func (h *history) add(e status.Event) {
	h.events = append(slices.Clone(h.events), e) // a status may show the old ones
	devices := 0
	for _, e := range h.events {
		if e.Device != "" {
			devices++
		}
	}
	if devices > maxDeviceHistory {
		oldest := slices.IndexFunc(h.events, func(e status.Event) bool { return e.Device != "" })
		h.events = slices.Delete(h.events, oldest, oldest+1)
	}
	h.events = h.events[max(len(h.events)-maxHistory, 0):]
}

// event adds to the history something that the host did or saw.
func (b *board) event(format string, args ...any) {
	b.keep(status.Event{Time: time.Now(), Text: fmt.Sprintf(format, args...)})
}

// deviceEvent adds to the history something that happened to a device, unless
// too much happens to it.
func (b *board) deviceEvent(device, format string, args ...any) {
	e := status.Event{Time: time.Now(), Device: device, Text: device + ": " + fmt.Sprintf(format, args...)}
	if b.passes(e) {
		b.keep(e)
	}
}

func (b *board) keep(e status.Event) {
	b.log.Print(e.Text)
	b.change(func() { b.history.add(e) })
	b.soon()
}

// passes says whether an event of a device is kept. One that is not is counted,
// and the window's end tells of it.
func (b *board) passes(e status.Event) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.history.meters[e.Device]
	if m == nil || m.timer == nil && e.Time.Sub(m.began) > deviceWindow {
		m = &meter{began: e.Time}
		b.history.meters[e.Device] = m
	}
	if m.passed < deviceBurst {
		m.passed++
		return true
	}
	m.held++
	m.last = e.Text
	if m.timer == nil && !b.stopping {
		m.timer = time.AfterFunc(deviceWindow-e.Time.Sub(m.began), func() { b.release(e.Device) })
	}
	return false
}

// release tells of the events of a device that were held back, and begins
// another window.
func (b *board) release(device string) {
	b.mu.Lock()
	m := b.history.meters[device]
	delete(b.history.meters, device)
	if m != nil && m.timer != nil {
		m.timer.Stop()
	}
	b.mu.Unlock()
	if m == nil || m.held == 0 {
		return
	}
	b.keep(status.Event{Time: time.Now(), Device: device,
		Text: fmt.Sprintf("%s: %d more events in %s, the last: %s", device, m.held, time.Since(m.began).Round(time.Second), m.last[len(device)+2:])})
}

// releaseAll tells of all that was held back.
func (b *board) releaseAll() {
	b.mu.Lock()
	var devices []string
	for device := range b.history.meters {
		devices = append(devices, device)
	}
	b.mu.Unlock()
	slices.Sort(devices)
	for _, device := range devices {
		b.release(device)
	}
}
