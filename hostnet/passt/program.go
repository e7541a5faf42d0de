package passt

import (
	"errors"
	"os/exec"
)

// Program is a passt to run.
type Program struct {
	Argv    []string // the command, with what it takes to run it here
	Package string   // the Debian package that was fetched, "" for the host's own program
	Why     string   // why it is not the host's own program
}

// Path is the file that names the program.
func (p Program) Path() string { return p.Argv[len(p.Argv)-1] }

// String returns which program it is, and why.
func (p Program) String() string {
	if p.Package == "" {
		return p.Path()
	}
	return p.Package + ", fetched, since " + p.Why
}

func (p Program) command(args ...string) *exec.Cmd {
	return exec.Command(p.Argv[0], append(p.Argv[1:len(p.Argv):len(p.Argv)], args...)...)
}

// installed is the host's own passt.
func installed() (Program, error) {
	path, err := exec.LookPath("passt")
	if err != nil {
		return Program{}, ErrMissing
	}
	return Program{Argv: []string{path}}, nil
}

// ErrMissing: the host has no passt.
var ErrMissing = errors.New("passt is not installed")
