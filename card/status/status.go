// Package status is how a card is: what `toe status --json` prints, and what a
// supervisor and its clients say to each other.
package status

import (
	"net/netip"
	"time"

	"github.com/toe-project/toe/disk"
	"github.com/toe-project/toe/link"
)

// State is how a card is, in one word.
type State string

// The states of a card.
const (
	Stopped  State = "stopped"  // no supervisor, or one that is exiting
	Starting State = "starting" // not ready yet, or restarting after its machine ended
	Healthy  State = "healthy"  // the agent answers and reports no fault
	Degraded State = "degraded" // the agent reports a fault, or something on the host is missing
	Failed   State = "failed"   // it did not start, or its supervisor was killed
)

// Status is what `toe status --json` prints.
type Status struct {
	Name          string    `json:"name"`
	State         State     `json:"state"`
	Reasons       []string  `json:"reasons"`
	Stage         string    `json:"stage,omitempty"` // what is being waited for while starting
	Supervisor    Process   `json:"supervisor"`
	Machine       Machine   `json:"machine"`
	Pump          Process   `json:"pump"` // of the link
	Link          Link      `json:"link"`
	Exec          *Link     `json:"exec,omitempty"`
	Ports         []Port    `json:"ports"`
	Disks         []Disk    `json:"disks,omitempty"`
	Services      []Service `json:"services,omitempty"`
	Offload       Offload   `json:"offload"`
	Firmware      Firmware  `json:"firmware"`
	UptimeSeconds float64   `json:"uptime_seconds"` // of the card's kernel
	ReadySeconds  float64   `json:"ready_seconds,omitempty"`
	Restarts      int       `json:"restarts"`
	History       []Event   `json:"history"`
	Killed        bool      `json:"killed,omitempty"` // the supervisor did not exit by itself
	Sequence      uint64    `json:"sequence"`         // grows with each new state, stage or event
}

// Disk is a disk of the card, and what its back end has done since the card was started.
type Disk struct {
	Name      string `json:"name"`
	Bytes     int64  `json:"bytes"`
	WorkerPID int    `json:"worker_pid"`
	disk.Stats
}

// Service is a program that the card runs for its administrator.
type Service struct {
	Name   string `json:"name"`
	State  string `json:"state"` // starting, healthy or degraded
	Detail string `json:"detail,omitempty"`
}

// Process is a process of the host; 0 when it does not run.
type Process struct {
	PID int `json:"pid"`
}

// Machine is what runs the card's CPU.
type Machine struct {
	Kind   string `json:"kind"`
	Arch   string `json:"arch"`          // Debian's name
	Why    string `json:"why,omitempty"` // how auto chose it
	PID    int    `json:"pid"`
	CPUs   int    `json:"cpus"`
	Memory int64  `json:"memory_bytes"`
}

// Link is one connection between host and card.
type Link struct {
	Interface string            `json:"interface"`
	MTU       int               `json:"mtu"`
	Host      []netip.Addr      `json:"host"`
	Card      []netip.Addr      `json:"card"`
	Namespace bool              `json:"namespace"` // in the card's network namespace, for toe exec
	PumpPID   int               `json:"pump_pid"`
	Queues    []link.QueueStats `json:"queues"`
}

// Port is one network port of the card.
type Port struct {
	Name      string            `json:"name"`
	Attach    string            `json:"attach"`
	MAC       string            `json:"mac"`
	MTU       int               `json:"mtu"`
	State     string            `json:"state"` // as the card sees it: starting, healthy or degraded
	Detail    string            `json:"detail,omitempty"`
	Addresses []string          `json:"addresses"`
	Gateways  []string          `json:"gateways"`
	Program   string            `json:"program,omitempty"` // the passt of attach: user
	PumpPID   int               `json:"pump_pid,omitempty"`
	Queues    []link.QueueStats `json:"queues,omitempty"`
}

// Firmware is what the card runs.
type Firmware struct {
	Edition string `json:"edition"`
	Version string `json:"version"`
	Kernel  string `json:"kernel"`
	Slot    string `json:"slot,omitempty"`  // of the flash; empty where the card has none, or in the rescue system
	Trial   bool   `json:"trial,omitempty"` // the slot has not been found healthy yet
	Agent   string `json:"agent,omitempty"` // its version, as it says itself
	// AgentSHA256 is that of the agent in the image.
	AgentSHA256 string `json:"agent_sha256,omitempty"`
	// Differs says how that agent differs from the one of this host; empty where it does not.
	Differs string `json:"differs,omitempty"`
	// ZeroTrust: only the card's administrators change it.
	ZeroTrust bool `json:"zero_trust,omitempty"`
	// Ignored are keys of the configuration that the card's agent does not know.
	Ignored []string `json:"ignored_keys,omitempty"`
}

// Event is an event of the card.
type Event struct {
	Time   time.Time `json:"time"`
	Device string    `json:"device,omitempty"` // the link or port; frequent events are only counted
	Text   string    `json:"text"`
}

// Running is the State in last.json while there is a supervisor: when it is
// found there without one, that one was killed.
const Running State = "running"

// Last is what a supervisor leaves behind (last.json) for the status of a
// card that does not run.
type Last struct {
	State   State     `json:"state"`
	Reasons []string  `json:"reasons"`
	Time    time.Time `json:"time"`
	PID     int       `json:"supervisor_pid"`
	Boot    string    `json:"boot"` // of the host
	Stage   string    `json:"stage,omitempty"`
	History []Event   `json:"history"`
}
