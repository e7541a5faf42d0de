package status

import "time"

// Slot is one of the two systems on a card's flash.
type Slot struct {
	Name  string `json:"name"` // A or B
	State string `json:"state"`
	// Reason says why the slot cannot be started; empty where it can.
	Reason   string `json:"reason,omitempty"`
	Active   bool   `json:"active"`  // it was started last
	Primary  bool   `json:"primary"` // it is tried first
	Attempts int    `json:"attempts_left"`
	Edition  string `json:"edition,omitempty"`
	Version  string `json:"version,omitempty"`
	Kernel   string `json:"kernel,omitempty"`
	Digest   string `json:"digest,omitempty"` // of its manifest
}

// Flash is what `toe firmware status NAME` prints.
type Flash struct {
	Name    string `json:"name"`
	Size    int64  `json:"size"`   // bytes
	OnDisk  int64  `json:"disk"`   // bytes that it takes on the host
	Rescue  string `json:"rescue"` // why the rescue system was started last; empty where a slot was
	Slots   []Slot `json:"slots"`
	Default string `json:"default,omitempty"` // the environment is missing, and this is why
	// Packages are those of a running card; Unknown says why they are missing.
	Packages *Packages `json:"packages,omitempty"`
	Unknown  string    `json:"packages_unknown,omitempty"`
}

// FirmwareEvent is an entry of a card's firmware history. Text that the card wrote is untrusted.
type FirmwareEvent struct {
	Time    time.Time `json:"time"`
	Who     string    `json:"who"`  // a user of the host, "card", or "supervisor"
	What    string    `json:"what"` // flashed, installed, started, good, failed, fell-back, rescue, rollback, factory-reset
	Slot    string    `json:"slot,omitempty"`
	Version string    `json:"version,omitempty"`
	Why     string    `json:"why,omitempty"`
	Outcome string    `json:"outcome,omitempty"`
	Check   string    `json:"check,omitempty"`   // that failed
	Output  string    `json:"output,omitempty"`  // of that check
	Console string    `json:"console,omitempty"` // its end
}

// Renewed answers the request to start the newest image on a card without a flash.
type Renewed struct {
	From    string `json:"from"` // version that runs
	To      string `json:"to"`
	Changed bool   `json:"changed"` // it is another one, and is started
}

// Rollback answers the request to start the other slot.
type Rollback struct {
	Slot string `json:"slot"` // that is started next
}
