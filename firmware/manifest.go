package firmware

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"regexp"

	"github.com/toe-project/toe/machine"
)

// Format is the version of the image format that this package reads and writes.
const Format = 1

const (
	manifestName  = "manifest.json"
	kernelName    = "kernel"
	initramfsName = "initramfs"

	maxManifest = 1 << 20 // bytes
	maxMember   = 1 << 30 // bytes
)

// Package is a Debian package that something in an image was taken from.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"architecture"`
	SHA256  string `json:"sha256"` // of the .deb, from the signed index
}

// Member is one file of an image.
type Member struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// Manifest describes an image. It is the image's first member.
type Manifest struct {
	Format   int            `json:"format"`
	Edition  Edition        `json:"edition"`
	Version  string         `json:"version"` // kernel version and a hash of the contents
	Arch     string         `json:"architecture"`
	Target   Target         `json:"target"`
	Machines []machine.Kind `json:"machines"` // kinds that boot it
	Kernel   string         `json:"kernel"`   // as uname -r has it
	Config   string         `json:"kernel_config,omitempty"`
	Agent    string         `json:"agent_sha256"`
	Packages []Package      `json:"packages"`
	Members  []Member       `json:"members"`
}

var (
	versionPattern = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.+~_-]{0,127}$`)
	wordPattern    = regexp.MustCompile(`^[a-z0-9]{1,32}$`)
)

// parseManifest decodes and checks a manifest of hostile origin.
func parseManifest(b []byte) (*Manifest, error) {
	var m Manifest
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&m); err != nil {
		return nil, fmt.Errorf("%w: %s: %v", ErrInvalid, manifestName, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("%w: %s: something follows the manifest", ErrInvalid, manifestName)
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, manifestName, err)
	}
	return &m, nil
}

func (m *Manifest) check() error {
	if m.Format != Format {
		return fmt.Errorf("format %d, this program reads format %d", m.Format, Format)
	}
	for name, value := range map[string]string{"edition": string(m.Edition), "architecture": m.Arch, "target": string(m.Target)} {
		if !wordPattern.MatchString(value) {
			return fmt.Errorf("%s %q is no lower-case word", name, value)
		}
	}
	for name, value := range map[string]string{"version": m.Version, "kernel": m.Kernel} {
		if !versionPattern.MatchString(value) {
			return fmt.Errorf("%s %q is no version", name, value)
		}
	}
	if !isSHA256(m.Agent) {
		return fmt.Errorf("agent_sha256 %q is no SHA-256", m.Agent)
	}
	return m.checkMembers()
}

// checkMembers wants exactly the kernel and the initramfs, in this order.
func (m *Manifest) checkMembers() error {
	want := []string{kernelName, initramfsName}
	if len(m.Members) != len(want) {
		return fmt.Errorf("%d members, there must be %d: %v", len(m.Members), len(want), want)
	}
	for i, f := range m.Members {
		switch {
		case f.Name != want[i]:
			return fmt.Errorf("member %d is %q, must be %q", i, f.Name, want[i])
		case f.Size <= 0 || f.Size > maxMember:
			return fmt.Errorf("member %s: size %d is not between 1 and %d bytes", f.Name, f.Size, maxMember)
		case !isSHA256(f.SHA256):
			return fmt.Errorf("member %s: sha256 %q is no SHA-256", f.Name, f.SHA256)
		}
	}
	return nil
}

func isSHA256(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32
}

func (m *Manifest) encode() ([]byte, error) {
	b, err := json.MarshalIndent(m, "", "  ")
	return append(b, '\n'), err
}
