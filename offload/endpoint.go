package offload

import (
	"errors"
	"fmt"

	"github.com/toe-project/toe/offload/loop"
)

// Endpoint is endpoint mode in force.
type Endpoint struct {
	loop *loop.Loop
	tcp  *tcp
	udp  *udp
	logf func(format string, args ...any)
}

var errStopped = errors.New("endpoint mode has ended")

// Start takes over what conf says. logf gets what an administrator should
// know, a line a call. A card has one Endpoint at a time.
func Start(conf Config, logf func(format string, args ...any)) (*Endpoint, error) {
	l, err := loop.New()
	if err != nil {
		return nil, err
	}
	e := &Endpoint{loop: l, logf: logf}
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

// Configure makes conf the configuration in force. Connections that are open
// go on. After an error the old one is in force.
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
	e.loop.Do(func() { s = Stats{TCP: e.tcp.stats(), UDP: e.udp.stats()} })
	return s
}

// Clear removes what an Endpoint of another process has left in the kernel,
// that was killed before it could Close: its rules would hand packets to
// sockets that are gone. It is no error that there is nothing.
func Clear() error { return errors.Join(removeRules(), removePolicy()) }

// Close ends endpoint mode: the rules first, then every connection, with an
// error to both its sides.
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
