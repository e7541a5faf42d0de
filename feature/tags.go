package feature

import (
	"encoding"
	"encoding/json"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/toe-project/toe/internal/suggest"
)

// Report takes one problem: the path of the value, such as offload.bypass.tcp[1],
// and what is wrong with it.
type Report func(path, format string, args ...any)

// Field is a field of a struct under its key.
type Field struct {
	reflect.StructField
	Key string
}

// Fields yields the fields of a struct type that have a key of the given kind,
// "yaml" or "json". Those of an embedded struct count as the struct's own. The
// field's Index leads to it from t.
func Fields(t reflect.Type, kind string) iter.Seq[Field] {
	return func(yield func(Field) bool) {
		for _, f := range reflect.VisibleFields(t) {
			key, _, _ := strings.Cut(f.Tag.Get(kind), ",")
			if f.IsExported() && key != "" && key != "-" && !yield(Field{f, key}) {
				return
			}
		}
	}
}

// Opaque reports whether a type reads a value of its own form, so that its fields
// are not keys.
func Opaque(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) || p.Implements(reflect.TypeFor[json.Unmarshaler]())
}

// Fill gives every absent value (zero, in structs inside, too) its default.
// v is a pointer to a struct.
func Fill(v any) { fill(reflect.ValueOf(v).Elem()) }

func fill(v reflect.Value) {
	for f := range Fields(v.Type(), "yaml") {
		field := v.FieldByIndex(f.Index)
		switch {
		case Opaque(field.Type()):
		case field.Kind() == reflect.Struct:
			fill(field)
			continue
		case field.Kind() == reflect.Slice && field.Type().Elem().Kind() == reflect.Struct && !Opaque(field.Type().Elem()):
			for i := range field.Len() {
				fill(field.Index(i))
			}
			continue
		}
		if def := f.Tag.Get("default"); def != "" && field.IsZero() {
			fillField(field, f.Name, def)
		}
	}
}

func fillField(field reflect.Value, name, def string) {
	var err error
	switch u, ok := field.Addr().Interface().(encoding.TextUnmarshaler); {
	case ok:
		err = u.UnmarshalText([]byte(def))
	case field.Kind() == reflect.String:
		field.SetString(def)
	case field.Kind() == reflect.Int:
		var n int
		n, err = strconv.Atoi(def)
		field.SetInt(int64(n))
	}
	if err != nil {
		panic(fmt.Sprintf("feature: default of %s: %v", name, err)) // a bug in the tag
	}
}

// Check reports what is wrong with a struct: values against their tags, and
// what a type's own Problem says. An absent value is as good as its default.
func Check(path string, v any, report Report) { check(path, reflect.ValueOf(v), report) }

func check(path string, v reflect.Value, report Report) {
	for f := range Fields(v.Type(), "yaml") {
		field, at := v.FieldByIndex(f.Index), path+"."+f.Key
		if !field.IsZero() || f.Tag.Get("default") == "" {
			CheckField(at, f.StructField, field, report)
		}
		switch {
		case field.Kind() == reflect.Struct && !Opaque(field.Type()):
			check(at, field, report)
		case field.Kind() == reflect.Slice:
			for i := range field.Len() {
				checkElem(fmt.Sprintf("%s[%d]", at, i), field.Index(i), report)
			}
		}
	}
}

func checkElem(at string, v reflect.Value, report Report) {
	if p, ok := v.Interface().(interface{ Problem() error }); ok {
		if err := p.Problem(); err != nil {
			report(at, "%v: %v", v.Interface(), err)
		}
	} else if v.Kind() == reflect.Struct && !Opaque(v.Type()) {
		check(at, v, report)
	}
}

// CheckField reports what is wrong with one value, an absent one too.
func CheckField(at string, f reflect.StructField, v reflect.Value, report Report) {
	if enum := f.Tag.Get("enum"); enum != "" {
		values := strings.Split(enum, "|")
		if got := v.String(); !slices.Contains(values, got) {
			report(at, "%q: must be %s%s", got, strings.Join(values, ", "), suggest.DidYouMean(got, values...))
		}
	}
	low, high, ok := Bounds(f)
	switch {
	case !ok:
	case v.Kind() == reflect.Slice && (v.Len() < low || v.Len() > high):
		report(at, "%d entries: between %d and %d", v.Len(), low, high)
	case v.CanInt() && (v.Int() < int64(low) || v.Int() > int64(high)):
		report(at, "%d: between %d and %d", v.Int(), low, high)
	}
}

// CheckMode reports values that are not the default and mean nothing in the
// mode that the card has.
func CheckMode(path, mode string, v any, report Report) {
	rv := reflect.ValueOf(v)
	for f := range Fields(rv.Type(), "yaml") {
		field, only := rv.FieldByIndex(f.Index), f.Tag.Get("mode")
		if only == "" || only == mode || field.IsZero() || fmt.Sprint(field.Interface()) == f.Tag.Get("default") {
			continue
		}
		report(path+"."+f.Key, "%#v: only mode: %s has it", field.Interface(), only)
	}
}

// Bounds are those of the tags min, which is 0 if absent, and max.
func Bounds(f reflect.StructField) (low, high int, ok bool) {
	high, err := strconv.Atoi(f.Tag.Get("max"))
	if err != nil {
		return 0, 0, false
	}
	low, _ = strconv.Atoi(f.Tag.Get("min"))
	return low, high, true
}
