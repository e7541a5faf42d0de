// Package service turns the services of card.yaml into what the card is told: files, units and
// ports. A service is data: a folder with service.yaml and templates of the program's native
// configuration (text/template). The folders of this package are in catalog; an administrator's own
// folder has the same form. The agent puts the result into force (agent/services.go).
package service

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/internal/suggest"
)

//go:embed catalog
var catalog embed.FS

const (
	// FileName of a service's description, in its folder.
	FileName = "service.yaml"
	// KeyNative is a key that every service has: text that its templates put into the program's
	// configuration as it is.
	KeyNative = "native"
	// KeyFolder is the key of card.yaml that names the folder of a service.
	KeyFolder = "folder"
	// KeyListen has the zones from which the ports of a service are reached (zones.go).
	KeyListen = "listen"

	templateSuffix = ".tmpl"
	maxFile        = 256 << 10 // bytes of one file of a folder
)

// Definition is a service's folder: service.yaml and its templates.
type Definition struct {
	Name     string             `yaml:"-"`
	Title    string             `yaml:"title"`
	Editions []string           `yaml:"editions"` // of the firmware that can run it
	Packages []string           `yaml:"packages"` // of Debian
	Unit     string             `yaml:"unit"`     // of systemd
	Ports    []Claim            `yaml:"ports"`
	Check    []string           `yaml:"check"`  // command that accepts the files, or says what is wrong
	Reload   []string           `yaml:"reload"` // command; absent: the unit is restarted
	Probe    []string           `yaml:"probe"`  // command that succeeds when the service works
	Owner    string             `yaml:"owner"`  // user of the card that reads files with secrets
	Keys     map[string]*Schema `yaml:"keys"`

	templates map[string]string // text by name, without the suffix
}

// Claim is a port that a service listens on. Port is a template, of a number.
type Claim struct {
	Protocol string `yaml:"protocol"`
	Port     string `yaml:"port"`
}

// Names lists the services of the catalogue, sorted.
func Names() []string {
	entries, err := catalog.ReadDir("catalog")
	if err != nil {
		panic(err) // it is embedded
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// Open reads a service: the folder, or that of the catalogue with this name where folder is empty.
func Open(name, folder string) (*Definition, error) {
	if folder != "" {
		root, err := os.OpenRoot(folder)
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", name, err)
		}
		defer root.Close()
		return load(name, folder, root.FS())
	}
	if !slices.Contains(Names(), name) {
		return nil, fmt.Errorf("no service %q%s; want one of %s, or a folder services/%s beside card.yaml",
			name, suggest.DidYouMean(name, Names()...), strings.Join(Names(), ", "), name)
	}
	sub, err := fs.Sub(catalog, path.Join("catalog", name))
	if err != nil {
		return nil, err
	}
	return load(name, "catalog/"+name, sub)
}

func load(name, folder string, files fs.FS) (*Definition, error) {
	text, err := readFile(files, FileName)
	if err != nil {
		return nil, fmt.Errorf("service %s: folder %s: %w", name, folder, err)
	}
	d, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("service %s: %s: %w", name, filepath.Join(folder, FileName), err)
	}
	d.Name, d.templates = name, map[string]string{}
	found, err := fs.Glob(files, "*"+templateSuffix)
	if err != nil {
		return nil, err
	}
	if len(found) > control.MaxServiceFiles {
		return nil, fmt.Errorf("service %s: folder %s: %d templates, want %d at most",
			name, folder, len(found), control.MaxServiceFiles)
	}
	for _, f := range found {
		text, err := readFile(files, f)
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", name, err)
		}
		d.templates[strings.TrimSuffix(f, templateSuffix)] = string(text)
	}
	if err := d.checkTemplates(); err != nil {
		return nil, fmt.Errorf("service %s: folder %s: %w", name, folder, err)
	}
	return d, nil
}

func readFile(files fs.FS, name string) ([]byte, error) {
	f, err := files.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s: larger than %d bytes", name, maxFile)
	}
	return data, err
}

// parse reads service.yaml.
func parse(text []byte) (*Definition, error) {
	d := &Definition{}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(d); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	return d, d.problem()
}

var (
	keyPattern     = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)
	packagePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{1,99}$`)
)

// problem returns what is wrong with service.yaml itself.
func (d *Definition) problem() error {
	if err := control.CheckUnit(d.Unit); err != nil {
		return fmt.Errorf("unit: %w", err)
	}
	if len(d.Editions) == 0 {
		d.Editions = []string{"debian"}
	}
	for _, p := range d.Packages {
		if !packagePattern.MatchString(p) {
			return fmt.Errorf("packages: %q: want the name of a Debian package", p)
		}
	}
	for i, c := range d.Ports {
		if c.Protocol != control.TCP && c.Protocol != control.UDP {
			return fmt.Errorf("ports[%d].protocol: %q: want tcp or udp", i, c.Protocol)
		}
	}
	for key, s := range d.Keys {
		if !keyPattern.MatchString(key) || key == KeyFolder || key == KeyNative || key == keyCard {
			return fmt.Errorf("keys: %q: want letters, digits and underscores, and another word than %s, %s and %s",
				key, KeyFolder, KeyNative, keyCard)
		}
		if s == nil {
			return fmt.Errorf("keys.%s: want a schema, such as {type: string}", key)
		}
		if err := s.problem(); err != nil {
			return fmt.Errorf("keys.%s: %w", key, err)
		}
	}
	return nil
}

// schema is that of all keys of the service, those that every service has included.
func (d *Definition) schema() *Schema {
	s := &Schema{Type: "object", Properties: map[string]*Schema{
		KeyNative: {Type: "string", Format: "text", Description: "text for the program's own configuration file, as it is"},
	}}
	for key, v := range d.Keys {
		s.Properties[key] = v
	}
	return s
}

// Schemas are the JSON schemas of the catalogue's services, by name.
func Schemas() map[string]any {
	out := map[string]any{}
	for _, name := range Names() {
		d, err := Open(name, "")
		if err != nil {
			panic(err) // it is embedded, and a test opens all
		}
		s := d.schema().json()
		s["description"] = d.Title
		s["type"] = []string{"object", "null"}
		out[name] = s
	}
	return out
}
