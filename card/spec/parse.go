package spec

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/toe-project/toe/feature"
	"github.com/toe-project/toe/internal/suggest"
)

// MaxSize bounds card.yaml, in bytes.
const MaxSize = 1 << 20

// Error is everything that is wrong with a card.yaml, one line each.
type Error struct{ Problems []string }

func (e *Error) Error() string { return strings.Join(e.Problems, "\n") }

// Load reads and checks a card.yaml. The error is an *Error unless the file
// cannot be read.
func Load(path string) (Spec, error) {
	f, err := os.Open(path)
	if err != nil {
		return Spec{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return Spec{}, err // which names the file
	}
	base, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return Spec{}, err
	}
	return parse(path, data, base)
}

// Parse reads and checks a card.yaml. An absent key gets its default. file is the
// name in error messages. The error is an *Error. Folders of services are not
// looked at.
func Parse(file string, data []byte) (Spec, error) { return parse(file, data, "") }

// parse also resolves and checks what card.yaml names in the folder base.
func parse(file string, data []byte, base string) (Spec, error) {
	if len(data) > MaxSize {
		return Spec{}, &Error{[]string{fmt.Sprintf("%s: larger than %d bytes", file, MaxSize)}}
	}
	d := &decoder{file: file, lines: map[string]int{}}
	var s Spec
	if root := d.document(data); root != nil {
		d.value("", root, reflect.ValueOf(&s).Elem())
	}
	if len(d.problems) == 0 {
		s.fillDefaults()
		said := map[string]bool{}
		for _, p := range d.zeros {
			said[p.path] = true
			d.fail(p.path, d.line(p.path), "%s", p.text)
		}
		for _, p := range s.problems() {
			if !said[p.path] {
				d.fail(p.path, d.line(p.path), "%s", p.text)
			}
		}
	}
	if len(d.problems) == 0 && base != "" {
		s.resolveServices(base)
		s.serviceProblems(func(at, format string, args ...any) { d.fail(at, d.line(at), format, args...) })
	}
	if len(d.problems) > 0 {
		return Spec{}, &Error{d.problems}
	}
	return s, nil
}

// decoder turns yaml nodes into a Spec and remembers where each value stood.
type decoder struct {
	file     string
	lines    map[string]int
	problems []string
	zeros    []problem // zeros in the file; an absent value is zero too and gets its default
}

func (d *decoder) fail(path string, line int, format string, args ...any) {
	where := d.file
	if line > 0 {
		where += ":" + strconv.Itoa(line)
	}
	text := fmt.Sprintf(format, args...)
	if path != "" {
		text = path + ": " + text
	}
	d.problems = append(d.problems, where+": "+text)
}

// line returns the line of path, or of the nearest key around it that has one.
func (d *decoder) line(path string) int {
	for path != "" {
		if n, ok := d.lines[path]; ok {
			return n
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return 0
}

// document is the one document's root node, or nil when the file is empty.
func (d *decoder) document(data []byte) *yaml.Node {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		d.problems = append(d.problems, yamlProblem(d.file, err))
		return nil
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		d.fail("", more.Line, "want one document; remove what follows the ---")
		return nil
	}
	if len(doc.Content) == 0 {
		return nil
	}
	return doc.Content[0]
}

// yamlProblem rewrites "yaml: line 3: …" as "FILE:3: …".
func yamlProblem(file string, err error) string {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		if n, what, ok := strings.Cut(rest, ": "); ok {
			return file + ":" + n + ": " + what
		}
	}
	return file + ": " + text
}

func (d *decoder) value(path string, n *yaml.Node, v reflect.Value) {
	if _, seen := d.lines[path]; !seen {
		d.lines[path] = n.Line
	}
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		d.fail(path, n.Line, "anchors and aliases are not supported; write the value")
		return
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.text(path, n, u)
		return
	}
	if s, ok := v.Addr().Interface().(*Services); ok {
		*s = d.services(path, n)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.mapping(path, n, v)
	case reflect.Slice:
		d.sequence(path, n, v)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(path, n, v.Elem())
	default:
		d.scalar(path, n, v)
	}
}

func (d *decoder) text(path string, n *yaml.Node, u encoding.TextUnmarshaler) {
	if n.Kind != yaml.ScalarNode {
		d.fail(path, n.Line, "want one value, not %s", kindName(n))
		return
	}
	if err := u.UnmarshalText([]byte(n.Value)); err != nil {
		d.fail(path, n.Line, "%q: %v", n.Value, err)
	}
}

func (d *decoder) scalar(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.ScalarNode {
		d.fail(path, n.Line, "want one value, not %s", kindName(n))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(n.Value)
	case reflect.Bool:
		if n.Tag != "!!bool" {
			d.fail(path, n.Line, "%q: want true or false", n.Value)
			return
		}
		v.SetBool(strings.EqualFold(n.Value, "true"))
	case reflect.Int:
		i, err := strconv.ParseInt(n.Value, 10, strconv.IntSize)
		if errors.Is(err, strconv.ErrRange) {
			d.fail(path, n.Line, "%q: the number is too large", n.Value)
			return
		}
		if err != nil {
			d.fail(path, n.Line, "%q: want a whole number", n.Value)
			return
		}
		v.SetInt(i)
	default:
		panic("card: no reader for " + v.Type().String()) // a bug in Spec, not in the input
	}
}

func (d *decoder) sequence(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		d.fail(path, n.Line, "want a list, not %s; write [%s]", kindName(n), n.Value)
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		d.value(fmt.Sprintf("%s[%d]", path, i), item, out.Index(i))
	}
	v.Set(out)
}

func (d *decoder) mapping(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.fail(path, n.Line, "want keys and values (%s), not %s", strings.Join(keysOf(v.Type()), ", "), kindName(n))
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		f, field, ok := fieldByKey(v, key.Value)
		switch {
		case !ok:
			keys := keysOf(v.Type())
			hint := suggest.DidYouMean(key.Value, keys...)
			if hint == "" {
				hint = "; want one of " + strings.Join(keys, ", ")
			}
			d.fail(path, key.Line, "unknown key %q%s", key.Value, hint)
		case seen[key.Value]:
			d.fail(path, key.Line, "duplicate key %q", key.Value)
		default:
			d.value(join(path, key.Value), val, field)
			if field.IsZero() && val.Tag != "!!null" {
				feature.CheckField(join(path, key.Value), f, field, func(at, format string, args ...any) {
					d.zeros = append(d.zeros, problem{at, fmt.Sprintf(format, args...)})
				})
			}
		}
		seen[key.Value] = true
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.SequenceNode:
		return "a list"
	case yaml.MappingNode:
		return "keys and values"
	default:
		return fmt.Sprintf("%q", n.Value)
	}
}

func keysOf(t reflect.Type) []string {
	var keys []string
	for f := range feature.Fields(t, "yaml") {
		keys = append(keys, f.Key)
	}
	slices.Sort(keys)
	return keys
}

func fieldByKey(v reflect.Value, key string) (reflect.StructField, reflect.Value, bool) {
	for f := range feature.Fields(v.Type(), "yaml") {
		if f.Key == key {
			return f.StructField, v.FieldByIndex(f.Index), true
		}
	}
	return reflect.StructField{}, reflect.Value{}, false
}
