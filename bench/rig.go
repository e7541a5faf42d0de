package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/toe-project/toe/card/store"
)

// servePort is where the traffic program on a card listens.
const servePort = 5201

// rig is one path between this host and a card: the link, or a rival with the same card behind it.
type rig struct {
	name  string
	ns    *nsThread // where the host's end is; nil for the caller's namespace
	card  *store.Card
	host  netip.Addr // the address of the far end's program, seen from here
	login *login
	pump  spent // of the link; nil for a rival
	// others is the host's CPU time without this program's own.
	others spent
	// prepare is called before each round, where rigs share one card.
	prepare func(context.Context) error
	closers []func() error
}

// onClose adds a function that close calls, the last first.
func (g *rig) onClose(f func() error) { g.closers = append(g.closers, f) }

func (g *rig) close() error {
	var errs []error
	g.login.close()
	for i := len(g.closers) - 1; i >= 0; i-- {
		errs = append(errs, g.closers[i]())
	}
	g.closers = nil
	return errors.Join(errs...)
}

// connect opens a TCP connection to a port of the card.
func (g *rig) connect(ctx context.Context, port uint16, limit time.Duration) (conn *net.TCPConn, err error) {
	err = g.ns.do(func() error {
		d := net.Dialer{Timeout: limit}
		c, err := d.DialContext(ctx, "tcp4", netip.AddrPortFrom(g.host, port).String())
		if err == nil {
			conn = c.(*net.TCPConn)
		}
		return err
	})
	return conn, err
}

// dial opens a connection for a purpose, as agent.BenchServe has them.
func (g *rig) dial(ctx context.Context, mode byte, numbers ...uint16) (*net.TCPConn, error) {
	conn, err := g.connect(ctx, servePort, 10*time.Second)
	if err != nil {
		return nil, err
	}
	order := []byte{mode}
	for _, n := range numbers {
		order = binary.BigEndian.AppendUint16(order, n)
	}
	if _, err := conn.Write(order); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// ask sends an order and reads its answer of n bytes.
func (g *rig) ask(ctx context.Context, n int, mode byte, numbers ...uint16) ([]byte, error) {
	conn, err := g.dial(ctx, mode, numbers...)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	answer := make([]byte, n)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return nil, fmt.Errorf("the card did not do order %q %v: %w", mode, numbers, err)
	}
	return answer, nil
}

// listen starts the traffic program on the card, as soon as the card answers.
func (g *rig) listen(ctx context.Context, address string, limit time.Duration) error {
	for deadline := time.Now().Add(limit); ; {
		// A card that still boots may lose a SYN: connect again, rather than wait for TCP's second
		// try. passt accepts connections before its card does.
		conn, err := g.connect(ctx, 22, time.Second)
		if err == nil {
			g.login, err = serve(ctx, conn, g.card, address)
		}
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(deadline):
			return fmt.Errorf("%s: no traffic program on the card within %s: %w", g.name, limit, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// cpu is the host's CPU time so far: the total, and the pump's.
func (g *rig) cpu() (host, pump time.Duration, err error) {
	if host, err = total(process(os.Getpid()), g.others)(); err != nil || g.pump == nil {
		return host, 0, err
	}
	pump, err = g.pump()
	return host, pump, err
}
