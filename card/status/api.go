package status

import "time"

// ServicesLimit is how long a card may take for a change of its services.
const ServicesLimit = 10 * time.Minute

// Applied is the answer to a change of a running card.
type Applied struct {
	Changes []string `json:"changes"`
	Diff    string   `json:"diff,omitempty"` // of the files of services, as diff -u has it
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

// EventLine is a line of the stream of events.
type EventLine struct {
	Event
	Missed uint64 `json:"missed,omitempty"` // events dropped just before, because the reader was slow
}

// Exec is what toe exec has to know. The descriptors of the namespaces come
// beside it: the network's, and the user namespace's that is entered before it.
type Exec struct {
	ResolvConf string `json:"resolv_conf"` // a file to lay over /etc/resolv.conf
}
