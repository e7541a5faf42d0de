package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/internal/fds"
)

// server answers on supervisor.sock: HTTP, JSON. Only the owner of the
// runtime folder gets there.
//
//	GET  /status            Status; ?after=N waits until Sequence is above N
//	POST /down              takes the card down; the socket goes away when it is
//	POST /reset             starts the machine again; ?factory=1&who=USER clears the data of the flash before
//	POST /rollback?who=USER starts the other slot of the flash, or the one in ?slot=A
//	POST /apply             a card.yaml; answers Applied; ?dry=1 changes nothing
//	GET  /events            EventLine after EventLine; ?follow=1
//	GET  /logs              lines of the card's log; ?follow=1&tail=N
//	GET  /capture           packets of ?port=NAME, ?snap=N bytes of each (capture.go)
//	GET  /dial?port=N       becomes a TCP connection to the card (upgrade "tcp")
//	GET  /exec              how to get into the namespace of toe exec
type server struct {
	http     *http.Server
	cancel   func()
	handlers sync.WaitGroup

	mu     sync.Mutex
	closed bool // no handler may begin; guarded by mu
}

// enter reports whether a handler may begin. One that does must leave.
func (srv *server) enter() bool {
	srv.mu.Lock()
	defer srv.mu.Unlock()
	if !srv.closed {
		srv.handlers.Add(1)
	}
	return !srv.closed
}

var errDown = errors.New("the card is being taken down")

// statusWait bounds how long /status waits for a change.
const statusWait = 20 * time.Second

func (s *Supervisor) listen() (*server, error) {
	l, err := listenUnix(s.card.Paths.Socket())
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", s.serveStatus)
	mux.HandleFunc("POST /down", s.serveDown)
	mux.HandleFunc("POST /reset", s.serveReset)
	mux.HandleFunc("POST /rollback", s.serveRollback)
	mux.HandleFunc("POST /renew", s.serveRenew)
	mux.HandleFunc("POST /apply", s.serveApply)
	mux.HandleFunc("GET /events", s.serveEvents)
	mux.HandleFunc("GET /logs", s.serveLogs)
	mux.HandleFunc("GET /capture", s.serveCapture)
	mux.HandleFunc("GET /dial", s.serveDial)
	mux.HandleFunc("GET /exec", s.serveExec)
	ctx, cancel := context.WithCancel(context.Background())
	srv := &server{cancel: cancel}
	srv.http = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !srv.enter() {
				refuse(w, http.StatusServiceUnavailable, errDown)
				return
			}
			defer srv.handlers.Done()
			mux.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 5 * time.Second, ErrorLog: log.New(io.Discard, "", 0),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	s.world.task(func() { _ = srv.http.Serve(l) })
	return srv, nil
}

// Close stops accepting requests, ends the current ones and waits for the handlers. No handler
// changes anything after Close.
func (srv *server) Close() {
	srv.mu.Lock()
	srv.closed = true
	srv.mu.Unlock()
	srv.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if srv.http.Shutdown(ctx) != nil {
		srv.http.Close()
	}
	srv.handlers.Wait()
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}

func refuse(w http.ResponseWriter, code int, err error) {
	answer(w, code, status.Problem{Error: err.Error()})
}

func (s *Supervisor) serveStatus(w http.ResponseWriter, r *http.Request) {
	if after, err := strconv.ParseUint(r.FormValue("after"), 10, 64); err == nil {
		ctx, cancel := context.WithTimeout(r.Context(), statusWait)
		s.board.await(ctx, after)
		cancel()
	} else {
		s.refresh(r.Context())
	}
	answer(w, http.StatusOK, s.Status())
}

// A status is of now: the agent is asked again unless it has just answered. If it
// is slow, its last answer is shown.
const (
	freshFor     = 100 * time.Millisecond
	refreshLimit = 500 * time.Millisecond
)

// refresh asks the agent once more, if it has answered before.
func (s *Supervisor) refresh(ctx context.Context) {
	s.board.mu.Lock()
	runs := s.board.phase == status.Healthy && s.board.pid != 0 && time.Since(s.board.replied) > freshFor
	s.board.mu.Unlock()
	if !runs {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, refreshLimit)
	defer cancel()
	_, _ = s.world.ask(ctx) // steady tells of an agent that does not answer
}

func (s *Supervisor) serveDown(w http.ResponseWriter, _ *http.Request) {
	select {
	case s.down <- struct{}{}:
	default:
	}
	answer(w, http.StatusAccepted, struct{}{})
}

func (s *Supervisor) serveReset(w http.ResponseWriter, r *http.Request) {
	if r.FormValue("factory") != "" {
		err := errNoFlash
		if rom := s.world.flashNow().rom; rom != nil {
			err = rom.MayChange()
		}
		if err == nil {
			err = s.world.order(factoryReset(r.FormValue("who")))
		}
		if err != nil {
			refuse(w, http.StatusConflict, err)
			return
		}
	}
	s.startAgain()
	answer(w, http.StatusAccepted, struct{}{})
}

// startAgain has the machine started again.
func (s *Supervisor) startAgain() {
	select {
	case s.restart <- struct{}{}:
	default:
	}
}

// answerBeside answers with descriptors beside the answer.
func answerBeside(w http.ResponseWriter, v any, files []*os.File) {
	body, err := json.Marshal(v)
	if err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	const head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n" +
		"Connection: close\r\n\r\n%s"
	if c, ok := conn.(*net.UnixConn); ok {
		_ = fds.WriteBeside(c, fmt.Appendf(nil, head, len(body), body), files...)
	}
}

// client is the agent, once the card has been ready.
func (s *Supervisor) client() (cardpb.CardClient, error) {
	if err := s.board.heard(); err != nil {
		return nil, fmt.Errorf("card %s %w", s.card.Name, err)
	}
	return s.world.agent, nil
}
