package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"time"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/hostnet"
	"github.com/toe-project/toe/internal/atomicfile"
)

func (s *Supervisor) serveLogs(w http.ResponseWriter, r *http.Request) {
	agent, err := s.client()
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, err)
		return
	}
	tail, _ := strconv.ParseUint(r.FormValue("tail"), 10, 32)
	stream, err := agent.Logs(r.Context(), &cardpb.LogsRequest{Follow: r.FormValue("follow") == "1", Tail: uint32(tail)})
	if err != nil {
		refuse(w, http.StatusBadGateway, err)
		return
	}
	defer stream.Close()
	enc := json.NewEncoder(w)
	for stream.Receive() {
		m := stream.Msg()
		line := status.LogLine{Time: time.Unix(0, m.TimeUnixNano), Source: m.Source, Text: m.Text, Missed: m.Missed}
		if enc.Encode(line) != nil {
			return
		}
		_ = http.NewResponseController(w).Flush()
	}
	if err := stream.Err(); err != nil && r.Context().Err() == nil {
		_ = enc.Encode(status.LogLine{Time: time.Now(), Source: "toe", Text: "the log ended: " + err.Error()})
	}
}

// serveDial turns the HTTP connection into one to the card.
func (s *Supervisor) serveDial(w http.ResponseWriter, r *http.Request) {
	port, err := strconv.ParseUint(r.FormValue("port"), 10, 16)
	if err != nil || port == 0 {
		refuse(w, http.StatusBadRequest, fmt.Errorf("port %q: 1 to 65535", r.FormValue("port")))
		return
	}
	if _, err := s.client(); err != nil {
		refuse(w, http.StatusServiceUnavailable, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	card, err := s.world.dial(ctx, "tcp", net.JoinHostPort(s.world.address().String(), strconv.FormatUint(port, 10)))
	if err != nil {
		refuse(w, http.StatusBadGateway, err)
		return
	}
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		card.Close()
		return
	}
	_, _ = buf.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	_ = buf.Flush()
	s.world.task(func() { s.splice(conn, card, buf) })
}

// splice copies both ways until both sides have ended, or the supervisor ends.
func (s *Supervisor) splice(conn, card net.Conn, fromConn io.Reader) {
	done := make(chan struct{}, 2)
	go func() { _, _ = io.Copy(card, fromConn); closeWrite(card); done <- struct{}{} }()
	go func() { _, _ = io.Copy(conn, card); closeWrite(conn); done <- struct{}{} }()
	for range 2 {
		select {
		case <-done:
		case <-s.world.quit:
		}
	}
	conn.Close()
	card.Close()
}

func closeWrite(c net.Conn) {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		_ = h.CloseWrite()
	}
}

func (s *Supervisor) serveExec(w http.ResponseWriter, _ *http.Request) {
	if _, err := s.client(); err != nil {
		refuse(w, http.StatusServiceUnavailable, err)
		return
	}
	for _, d := range s.world.links {
		s.world.mu.Lock()
		att, dead := d.Att, d.dead
		s.world.mu.Unlock()
		if d.Name != store.ExecDevice || att == nil || len(att.Namespaces) == 0 {
			continue
		}
		if dead {
			refuse(w, http.StatusConflict, fmt.Errorf(
				"the process that kept the namespace for toe exec has ended; fix: `toe down %[1]s` and `toe up %[1]s`", s.card.Name))
			return
		}
		file := filepath.Join(s.card.Paths.Runtime, "exec-resolv.conf")
		// Replaced, not written: it is mounted over /etc/resolv.conf of running commands.
		text := hostnet.ResolvConf(d.addrs.CardAddrs(), s.world.specNow().DNS.Search)
		if err := atomicfile.Write(file, text, 0o644); err != nil {
			refuse(w, http.StatusInternalServerError, err)
			return
		}
		answerBeside(w, status.Exec{ResolvConf: file}, att.Namespaces)
		return
	}
	refuse(w, http.StatusConflict, errors.New("the card has no namespace for toe exec: link.exec is false in card.yaml"))
}
