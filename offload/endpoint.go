package offload

import (
	"errors"
	"fmt"

	"github.com/toe-project/toe/offload/loop"
	"github.com/toe-project/toe/offload/raw"
)

// Endpoint is endpoint mode in force.
type Endpoint struct {
	loop *loop.Loop
	tcp  *tcp
	udp  *udp
	past uint64 // system calls before the start
	logf func(format string, args ...any)
}

var errStopped = errors.New("endpoint mode has ended")

// Start starts endpoint mode with conf. logf gets messages for the administrator, one line per
// call. A card has one Endpoint at a time.
func Start(conf Config, logf func(format string, args ...any)) (*Endpoint, error) {
	l, err := loop.New()
	if err != nil {
		return nil, err
	}
	e := &Endpoint{loop: l, past: raw.Calls.Load(), logf: logf}
	if err := e.open(conf); err != nil {
		go l.Run()
		e.Close()
		return nil, err
	}
	go l.Run()
	return e, nil
}

// open makes the sockets first and the rules last: a rule without a socket
// would lose packets.
func (e *Endpoint) open(conf Config) (err error) {
	if e.tcp, err = newTCP(e.loop, conf, e.logf); err != nil {
		return fmt.Errorf("endpoint mode for TCP: %w", err)
	}
	if e.udp, err = newUDP(e.loop, conf, e.logf); err != nil {
		return fmt.Errorf("endpoint mode for UDP: %w", err)
	}
	if err := addPolicy(); err != nil {
		return err
	}
	return applyRules(conf)
}

// Configure replaces the configuration. Open connections continue. After an error the old
// configuration is in force.
func (e *Endpoint) Configure(conf Config) error {
	err := errStopped
	e.loop.Do(func() {
		before := e.tcp.conf
		if err = e.configure(conf); err != nil {
			err = errors.Join(err, e.configure(before))
		}
	})
	return err
}

func (e *Endpoint) configure(conf Config) error {
	if err := e.tcp.configure(conf); err != nil {
		return err
	}
	if err := e.udp.configure(conf); err != nil {
		return err
	}
	return applyRules(conf)
}

// Stats reads the counters; they are zero after Close.
func (e *Endpoint) Stats() (s Stats) {
	e.loop.Do(func() { s = Stats{TCP: e.tcp.stats(), UDP: e.udp.stats(), SystemCalls: raw.Calls.Load() - e.past} })
	return s
}

// Clear removes rules and routes left in the kernel by an Endpoint of a process that was killed
// before Close: its rules would pass packets to sockets that are gone. Finding none is not an
// error.
func Clear() error { return errors.Join(removeRules(), removePolicy()) }

// Close ends endpoint mode. It removes the rules first, then ends every connection with an error on
// both sides.
func (e *Endpoint) Close() error {
	err := Clear()
	e.loop.Do(func() {
		if e.tcp != nil {
			e.tcp.close()
		}
		if e.udp != nil {
			e.udp.close()
		}
	})
	e.loop.Stop()
	return err
}
