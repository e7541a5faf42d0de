package bench

import (
	"strings"
	"sync"
)

// lastLines keeps the end of a program's output, for a message.
type lastLines struct {
	mu   sync.Mutex
	text []byte // guarded by mu
}

func (l *lastLines) Write(b []byte) (int, error) {
	const most = 1000
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, b...)
	l.text = l.text[max(0, len(l.text)-most):]
	return len(b), nil
}

func (l *lastLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.TrimSpace(string(l.text))
}
