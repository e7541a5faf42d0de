package agent

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/beevik/ntp"
	"golang.org/x/sys/unix"
)

const (
	// clockStep is how far the clock may be from the host's before it is set.
	clockStep = time.Second
	// clockSure is how many times in a row the host must seem behind before the
	// clock is set back: a message may have been delayed.
	clockSure = 3
	// ntpStep is how far it may be from a server's before it is set at once;
	// less is slewed, so that the clock never runs backwards for it.
	ntpStep     = 128 * time.Millisecond // as ntpd does
	ntpInterval = 17 * time.Minute       // as ntpd's longest, 1024 s
	ntpFirstTry = 2 * time.Second
	ntpTimeout  = 3 * time.Second
	// noClock: a clock that shows an earlier year was never set.
	noClock = 2024
)

// clock keeps the card's time: from the time servers if there are any, else from
// the host, whose every status request carries its time.
type clock struct {
	log *Log
	// query asks one server how far this clock is off; step and slew correct it.
	query func(server string) (time.Duration, error)
	step  func(offset time.Duration) error
	slew  func(offset time.Duration) error

	mu      sync.Mutex // guards what follows
	servers []string
	since   time.Time
	synced  string // the server or "host" that last set or confirmed the clock
	byNTP   bool
	ahead   []time.Duration // offsets in a row by which the host seems to be behind
	err     error
	changed chan struct{}
}

func newClock(log *Log) *clock {
	return &clock{
		log: log, query: queryNTP, step: stepClock, slew: slewClock,
		since: time.Now(), changed: make(chan struct{}, 1),
	}
}

// setServers replaces the time servers.
func (c *clock) setServers(servers []string) {
	c.mu.Lock()
	c.servers, c.byNTP, c.err, c.since = servers, false, nil, time.Now()
	c.mu.Unlock()
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// run asks the time servers until ctx ends.
func (c *clock) run(ctx context.Context) {
	pause := time.Duration(0)
	for {
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-c.changed:
			timer.Stop()
			pause = 0
			continue
		case <-timer.C:
		}
		pause = c.ask(pause)
	}
}

// ask tries the servers in order and returns how long to pause after it.
func (c *clock) ask(last time.Duration) time.Duration {
	c.mu.Lock()
	servers := c.servers
	c.mu.Unlock()
	if len(servers) == 0 {
		return ntpInterval
	}
	var err error
	for _, s := range servers {
		var offset time.Duration
		if offset, err = c.query(s); err != nil {
			continue
		}
		if err = c.correct(offset); err == nil {
			c.mu.Lock()
			c.synced, c.byNTP, c.err = s, true, nil
			c.mu.Unlock()
			return ntpInterval
		}
	}
	c.mu.Lock()
	c.byNTP, c.err = false, err
	c.mu.Unlock()
	return min(max(2*last, ntpFirstTry), ntpInterval/4)
}

func (c *clock) correct(offset time.Duration) error {
	if offset.Abs() < ntpStep {
		return c.slew(offset)
	}
	c.log.Sayf("clock: stepped by %v", offset.Round(time.Millisecond))
	return c.step(offset)
}

// hear takes the host's time of a status request, which is the time when the
// request was made. A host that is ahead is ahead by at least the offset. One
// that is behind may only seem so, by as long as the request waited for the card
// to boot or for a busy CPU. Of several in a row the smallest offset is the
// nearest to the truth.
func (c *clock) hear(host time.Time) {
	offset := time.Until(host)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byNTP {
		return
	}
	if offset < -clockStep {
		if c.ahead = append(c.ahead, offset); len(c.ahead) < clockSure {
			return
		}
		offset = slices.Max(c.ahead)
	}
	c.ahead = nil
	if offset.Abs() > clockStep {
		c.log.Sayf("clock: stepped by %v, to the host's time", offset.Round(time.Millisecond))
		if err := c.step(offset); err != nil {
			c.err = err
			return
		}
	}
	c.synced = "host"
}

func (c *clock) health() reason {
	r := reason{component: "clock", state: healthy}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byNTP || len(c.servers) == 0 && c.synced != "" {
		return r.with(healthy, "from "+c.synced)
	}
	if c.err != nil && time.Since(c.since) > time.Minute {
		return r.with(degraded, fmt.Sprintf("no time server answers: %v", c.err))
	}
	if time.Now().Year() < noClock {
		return r.with(degraded, fmt.Sprintf("it says %s: neither the machine nor the host has set it yet",
			time.Now().UTC().Format(time.DateOnly)))
	}
	return r.with(healthy, "from the machine")
}

func queryNTP(server string) (time.Duration, error) {
	got, err := ntp.QueryWithOptions(server, ntp.QueryOptions{Timeout: ntpTimeout})
	if err != nil {
		return 0, fmt.Errorf("%s: %w", server, err)
	}
	if err := got.Validate(); err != nil {
		return 0, fmt.Errorf("%s: %w", server, err)
	}
	return got.ClockOffset, nil
}

func stepClock(offset time.Duration) error {
	t := unix.NsecToTimespec(time.Now().Add(offset).UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &t); err != nil {
		return fmt.Errorf("clock_settime: %w", err)
	}
	return nil
}

// slewClock is adjtime(3): the kernel corrects 0.5 ms a second.
func slewClock(offset time.Duration) error {
	const singleshot = 0x8001 // ADJ_OFFSET_SINGLESHOT, linux/timex.h
	tx := unix.Timex{Modes: singleshot}
	tx.Offset = timexLong(offset.Microseconds())
	if _, err := unix.Adjtimex(&tx); err != nil {
		return fmt.Errorf("adjtimex: %w", err)
	}
	return nil
}
