package agent

import (
	"context"
	"errors"
	"math"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// leaseClock is what leases are measured with.
type leaseClock interface {
	// now is the time since some moment. It goes on while the card sleeps.
	now() time.Duration
	// wait returns at a time of this clock, when wake is closed, when ctx has
	// ended, or when the wall clock is set. stepped reports the last of these: the
	// card may have been suspended, and does not know for how long.
	wait(ctx context.Context, at time.Duration, wake ...<-chan struct{}) (stepped bool)
}

// bootClock is CLOCK_BOOTTIME. A machine that its host suspends without telling
// it, as User-Mode Linux, learns of that when its wall clock is set to the host's.
type bootClock struct{}

func (bootClock) now() time.Duration { return uptime() }

func (bootClock) wait(ctx context.Context, at time.Duration, wake ...<-chan struct{}) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	due := alarm(ctx, unix.CLOCK_BOOTTIME, unix.TFD_TIMER_ABSTIME, max(at, 1))
	// An alarm that never rings, but whose read fails when the clock is set.
	step := alarm(ctx, unix.CLOCK_REALTIME, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, latest)
	one, two := ready(wake, 0), ready(wake, 1)
	select {
	case <-ctx.Done():
	case <-due:
	case <-one:
	case <-two:
	case err := <-step:
		return errors.Is(err, unix.ECANCELED)
	}
	return false
}

func ready(wake []<-chan struct{}, i int) <-chan struct{} {
	if i < len(wake) {
		return wake[i]
	}
	return nil
}

// latest is the latest time of an alarm. A 32-bit kernel's timespec holds no later one: with its upper
// bits lost, the alarm would ring at once, again and again.
const latest = math.MaxInt32 * time.Second

// alarm receives the result of reading a timer of a clock (timerfd_create(2)):
// nil when it rings. Without the timer it rings in a second: a caller that looks
// at its clock then loses nothing but CPU time.
func alarm(ctx context.Context, clock, flags int, at time.Duration) <-chan error {
	rang := make(chan error, 1)
	fd, err := unix.TimerfdCreate(clock, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err == nil {
		spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(min(at, latest)))}
		if err = unix.TimerfdSettime(fd, flags, &spec, nil); err != nil {
			_ = unix.Close(fd)
		}
	}
	if err != nil {
		time.AfterFunc(time.Second, func() { rang <- nil })
		return rang
	}
	f := os.NewFile(uintptr(fd), "timerfd")
	context.AfterFunc(ctx, func() { _ = f.Close() })
	go func() {
		_, err := f.Read(make([]byte, 8))
		rang <- err
	}()
	return rang
}
