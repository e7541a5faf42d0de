package loop

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/offload/raw"
)

// Add watches fd, edge-triggered, for events (EPOLLIN, EPOLLOUT, EPOLLRDHUP).
func (l *Loop) Add(fd int, events uint32, h Handler) error {
	return l.register(fd, events|unix.EPOLLET, h)
}

// AddLevel watches fd, level-triggered, for input. It suits descriptors that mostly have one item
// pending, where a second read would waste a system call.
func (l *Loop) AddLevel(fd int, h Handler) error { return l.register(fd, unix.EPOLLIN, h) }

// Watch sets the handler and the events of a descriptor, which may be in the loop already. Without
// EPOLLET in events it is level-triggered. Pending events are reported to the new handler.
func (l *Loop) Watch(fd int, events uint32, h Handler) error {
	if fd >= len(l.slots) || l.slots[fd].h == nil {
		return l.register(fd, events, h)
	}
	l.slots[fd].h = h
	return l.Modify(fd, events)
}

func (l *Loop) register(fd int, events uint32, h Handler) error {
	for fd >= len(l.slots) {
		l.slots = append(l.slots, make([]slot, len(l.slots)+64)...)
	}
	s := &l.slots[fd]
	s.generation++
	s.h = h
	ev := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: int32(s.generation)}
	if err := raw.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		s.h = nil
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

// Modify changes the events of a descriptor. Pending events are reported to its handler.
func (l *Loop) Modify(fd int, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: int32(l.slots[fd].generation)}
	if l.ring != nil { // does not fail: register has added fd
		l.ring.Modify(l.epoll, fd, ev)
		return nil
	}
	if err := raw.EpollCtl(l.epoll, unix.EPOLL_CTL_MOD, fd, &ev); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

// Pause ignores a level-triggered descriptor for d.
func (l *Loop) Pause(fd int, d time.Duration) {
	generation := l.slots[fd].generation
	_ = l.Modify(fd, 0)
	l.After(d, func() {
		if s := l.slots[fd]; s.h != nil && s.generation == generation {
			_ = l.Modify(fd, unix.EPOLLIN)
		} // else closed in the meantime
	})
}

// Close removes a descriptor from the loop and closes it.
func (l *Loop) Close(fd int) {
	l.Settle() // what is queued for fd
	if fd < len(l.slots) {
		l.slots[fd].h = nil
	}
	_ = raw.Close(fd)
}
