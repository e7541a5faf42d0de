package agent

import (
	"errors"
	"io"
	"testing"
	"time"
)

// testClock is off by what the test says, and records its corrections.
func testClock(offset *time.Duration, fail *error) (*clock, *[]string) {
	var done []string
	c := newClock(NewLog(io.Discard))
	c.query = func(string) (time.Duration, error) { return *offset, *fail }
	c.step = func(d time.Duration) error { done = append(done, "step "+d.Round(time.Second).String()); return nil }
	c.slew = func(d time.Duration) error { done = append(done, "slew "+d.String()); return nil }
	return c, &done
}

func TestClockFollowsHost(t *testing.T) {
	var offset time.Duration
	var fail error
	c, done := testClock(&offset, &fail)
	c.hear(time.Now().Add(500 * time.Millisecond))
	if len(*done) != 0 {
		t.Errorf("half a second: %v", *done)
	}
	c.hear(time.Now().Add(time.Hour))
	if len(*done) != 1 || (*done)[0] != "step 1h0m0s" {
		t.Errorf("an hour: %v", *done)
	}
	if h := c.health(); h.state != healthy || h.detail != "from host" {
		t.Errorf("health %v", h)
	}
}

// A request that was long on its way says an old time: the clock is not set
// back for one, nor by more than the quickest of some says.
func TestClockIsNotSetBackByDelay(t *testing.T) {
	var offset time.Duration
	var fail error
	c, done := testClock(&offset, &fail)
	for _, late := range []time.Duration{3 * time.Second, 5 * time.Second, 0, 4 * time.Second, 2 * time.Second, 0} {
		c.hear(time.Now().Add(-late))
	}
	if len(*done) != 0 {
		t.Errorf("set back by requests that came late: %v", *done)
	}
	for _, late := range []time.Duration{62 * time.Second, 60 * time.Second, 65 * time.Second} {
		c.hear(time.Now().Add(-late))
	}
	if len(*done) != 1 || (*done)[0] != "step -1m0s" {
		t.Errorf("ahead by a minute: %v, want one step by the smallest", *done)
	}
}

func TestClockAsksServers(t *testing.T) {
	offset, fail := 10*time.Millisecond, error(nil)
	c, done := testClock(&offset, &fail)
	c.setServers([]string{"ntp.example.org"})
	if pause := c.ask(0); pause != ntpInterval {
		t.Errorf("pause %v, want %v", pause, ntpInterval)
	}
	if len(*done) != 1 || (*done)[0] != "slew 10ms" {
		t.Errorf("10 ms: %v", *done)
	}
	// Once a server is followed, the host's clock is not.
	c.hear(time.Now().Add(time.Hour))
	if len(*done) != 1 {
		t.Errorf("the host's time beside a server's: %v", *done)
	}
	offset = -time.Minute
	c.ask(0)
	if len(*done) != 2 || (*done)[1] != "step -1m0s" {
		t.Errorf("a minute: %v", *done)
	}
}

func TestClockWithoutAnswer(t *testing.T) {
	var offset time.Duration
	fail := errors.New("timeout")
	c, done := testClock(&offset, &fail)
	c.setServers([]string{"a", "b"})
	pause := time.Duration(0)
	for range 20 {
		pause = c.ask(pause)
	}
	if pause != ntpInterval/4 {
		t.Errorf("pause %v, want it to grow to %v", pause, ntpInterval/4)
	}
	c.since = time.Now().Add(-2 * time.Minute)
	if h := c.health(); h.state != degraded {
		t.Errorf("health %v", h)
	}
	// Until a server answers the host's time is better than none.
	c.hear(time.Now().Add(time.Hour))
	if len(*done) != 1 {
		t.Errorf("the host's time without a server: %v", *done)
	}
}
