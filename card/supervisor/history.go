package supervisor

import (
	"fmt"
	"slices"
	"time"

	"github.com/toe-project/toe/card/status"
)

// The card's side decides how often some events of a device happen: a machine
// that was taken over can dial its socket hundreds of times a second (349 were
// measured), or reboot for as long as it runs. So deviceBurst events of a device
// are kept in a deviceWindow, the rest is counted, and all devices together have
// half of the history. The machine counts as a device.
const (
	maxHistory       = 32 // events that are kept
	maxDeviceHistory = maxHistory / 2
	deviceBurst      = 8
	deviceWindow     = 10 * time.Second
	maxRecent        = 128 // events that a follower may be behind
)

// history is what happened to a card, the oldest first.
type history struct {
	events []status.Event
	recent []status.Event    // the newest, for followers: none is left out
	total  uint64            // events added to recent
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

// machineDevice is the machine as a device of the history.
const machineDevice = "machine"

// add appends an event. The oldest event goes; once devices have their half, the
// oldest event of the device that has most.
func (h *history) add(e status.Event) {
	h.recent = append(h.recent, e)
	h.recent = h.recent[max(len(h.recent)-maxRecent, 0):]
	h.total++
	h.events = append(slices.Clone(h.events), e) // a status may show the old ones
	devices, most := 0, ""
	count := map[string]int{}
	for _, e := range h.events {
		if e.Device == "" {
			continue
		}
		devices++
		if count[e.Device]++; count[e.Device] > count[most] {
			most = e.Device
		}
	}
	if devices > maxDeviceHistory {
		oldest := slices.IndexFunc(h.events, func(e status.Event) bool { return e.Device == most })
		h.events = slices.Delete(h.events, oldest, oldest+1)
	}
	h.events = h.events[max(len(h.events)-maxHistory, 0):]
}

// since returns the events that were added after the first n, and how many of them
// are no longer kept.
func (h *history) since(n uint64) (events []status.Event, missed uint64) {
	fresh := h.total - n
	kept := min(fresh, uint64(len(h.recent)))
	return slices.Clone(h.recent[uint64(len(h.recent))-kept:]), fresh - kept
}

// event adds an event of the host's own to the history.
func (b *board) event(format string, args ...any) {
	b.keep(status.Event{Time: time.Now(), Text: fmt.Sprintf(format, args...)})
}

// deviceEvent adds an event of a device to the history, or counts it if the device
// has too many.
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

// passes reports whether an event of a device is kept. The others are counted, and
// one event at the end of the window tells how many there were.
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

// release adds an event for those of a device that were held back, and begins
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
	text := fmt.Sprintf("%s: %d more events in %s, the last: %s", device, m.held,
		time.Since(m.began).Round(time.Second), m.last[len(device)+2:])
	b.keep(status.Event{Time: time.Now(), Device: device, Text: text})
}

// releaseAll releases what is held back of all devices.
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
