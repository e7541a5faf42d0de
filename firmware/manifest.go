package firmware

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"

	"github.com/toe-project/toe/machine"
)

// Format is the version of the image format that this package writes. It reads that and oldest.
//
// An image of another version of toe is read by these rules. Unknown fields of the manifest are
// ignored. Unknown members are ignored, unless the manifest marks them critical. What an older
// reader must not ignore is a critical member, or raises the format.
const (
	Format = 2
	oldest = 1 // the agent was agent_sha256, and there were kernel and initramfs only
)

const (
	manifestName  = "manifest.json"
	kernelName    = "kernel"
	initramfsName = "initramfs"
	rootName      = "root.ext4.zst"
	sbomName      = "sbom.spdx.json"

	maxManifest = 1 << 20 // bytes
	maxMember   = 1 << 30 // bytes
	maxMembers  = 64
)

// required lists the members that every image has, and unpacked those that Files unpacks, where the
// image has them. known are all that this package knows.
var (
	required = []string{kernelName, initramfsName}
	unpacked = append(required[:2:2], rootName)
	known    = append(unpacked[:3:3], sbomName)
)

// Package is a Debian package that contributed to an image.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"architecture"`
	SHA256  string `json:"sha256,omitempty"` // of the .deb, from the signed index; not known of a root's
}

// Member is one file of an image.
type Member struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
	// Critical makes a reader that does not know the member reject the image.
	Critical bool `json:"critical,omitempty"`
}

// Manifest describes an image. It is the image's first file; the members follow in its order.
type Manifest struct {
	Format   int            `json:"format"`
	Edition  Edition        `json:"edition"`
	Version  string         `json:"version"` // kernel version and a hash of the contents
	Arch     string         `json:"architecture"`
	Target   Target         `json:"target"`
	Machines []machine.Kind `json:"machines"` // kinds that boot it
	Kernel   string         `json:"kernel"`   // as uname -r has it
	Config   string         `json:"kernel_config,omitempty"`
	Agent    Agent          `json:"agent"`
	Packages []Package      `json:"packages"`
	Members  []Member       `json:"members"`
	Root     *Member        `json:"root,omitempty"` // in a boot slot: the root file system of the same slot
}

var (
	versionPattern = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.+~_-]{0,127}$`)
	wordPattern    = regexp.MustCompile(`^[a-z0-9]{1,32}$`)
	memberPattern  = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
)

// parseManifest decodes and checks an untrusted manifest.
func parseManifest(b []byte) (*Manifest, error) {
	var m struct {
		Manifest
		AgentSHA256 string `json:"agent_sha256"` // format 1
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("%w: %s: %v", ErrInvalid, manifestName, err)
	}
	if m.Format == 1 {
		m.Agent = Agent{SHA256: m.AgentSHA256}
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, manifestName, err)
	}
	return &m.Manifest, nil
}

func (m *Manifest) check() error {
	if m.Format < oldest || m.Format > Format {
		return fmt.Errorf("format %d, this toe reads formats %d to %d", m.Format, oldest, Format)
	}
	for name, value := range map[string]string{"edition": string(m.Edition), "architecture": m.Arch, "target": string(m.Target)} {
		if !wordPattern.MatchString(value) {
			return fmt.Errorf("%s %q: want a lower-case word", name, value)
		}
	}
	for name, value := range map[string]string{"version": m.Version, "kernel": m.Kernel} {
		if !versionPattern.MatchString(value) {
			return fmt.Errorf("%s %q: want a version", name, value)
		}
	}
	if err := m.Agent.check(); err != nil {
		return err
	}
	return m.checkMembers()
}

func (m *Manifest) checkMembers() error {
	if len(m.Members) > maxMembers {
		return fmt.Errorf("%d members, want at most %d", len(m.Members), maxMembers)
	}
	seen := map[string]bool{}
	for _, f := range m.Members {
		if err := f.check(); err != nil {
			return fmt.Errorf("member %.64q: %w", f.Name, err)
		}
		if seen[f.Name] {
			return fmt.Errorf("member %s is listed twice", f.Name)
		}
		seen[f.Name] = true
	}
	for _, name := range required {
		if !seen[name] {
			return fmt.Errorf("no member %s", name)
		}
	}
	return nil
}

func (f Member) check() error {
	switch {
	case !memberPattern.MatchString(f.Name) || f.Name == manifestName:
		return fmt.Errorf("the name does not match %s", memberPattern)
	case f.Size <= 0 || f.Size > maxMember:
		return fmt.Errorf("size %d, want 1 to %d bytes", f.Size, maxMember)
	case !isSHA256(f.SHA256):
		return fmt.Errorf("sha256 %.80q: want 64 hexadecimal digits", f.SHA256)
	case f.Critical && !slices.Contains(known, f.Name):
		return errors.New("this toe does not know it, and the image cannot be used without; a newer toe can")
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
