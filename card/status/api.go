package status

import "time"

// Applied is the answer to a change of a running card.
type Applied struct {
	Changes []string `json:"changes"`
}

type Problem struct {
	Error string `json:"error"`
}

// LogLine is a line of the card's log.
type LogLine struct {
	Time   time.Time `json:"time"`
	Source string    `json:"source"`
	Text   string    `json:"text"`
	Missed uint64    `json:"missed,omitempty"`
}

// Exec is what toe exec has to know.
type Exec struct {
	PID        int    `json:"pid"`         // lives in the namespaces to join
	User       bool   `json:"user"`        // join its user namespace first
	ResolvConf string `json:"resolv_conf"` // a file to lay over /etc/resolv.conf
}
