package control

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"

	"github.com/toe-project/toe/feature"
)

// knowsKey reports whether the path, keys joined by dots, leads to a field of t.
func knowsKey(t reflect.Type, path string) bool {
	for key := range strings.SplitSeq(path, ".") {
		f, ok := fieldOf(elemOf(t), key)
		if !ok {
			return false
		}
		t = f.Type
	}
	return true
}

// ignoredKeys lists the keys of data that Config does not have, sorted, the
// first maxIgnored of them.
func ignoredKeys(data []byte) []string {
	var tree any
	if json.Unmarshal(data, &tree) != nil {
		return nil
	}
	known := map[string]bool{}
	collectUnknown(tree, reflect.TypeFor[Config](), "", known)
	var keys []string
	for key := range known {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys[:min(len(keys), maxIgnored)]
}

// collectUnknown adds the unknown keys of tree, which was decoded into a value
// of type t. The elements of a list share one path, without an index.
func collectUnknown(tree any, t reflect.Type, path string, unknown map[string]bool) {
	t = elemOf(t)
	switch tree := tree.(type) {
	case []any:
		for _, e := range tree {
			collectUnknown(e, t, path, unknown)
		}
	case map[string]any:
		if t.Kind() != reflect.Struct || feature.Opaque(t) {
			return
		}
		for key, value := range tree {
			if f, ok := fieldOf(t, key); ok {
				collectUnknown(value, f.Type, path+key+".", unknown)
			} else if len(unknown) < MaxConfig/64 {
				unknown[visible(path+key, maxKeyText)] = true
			}
		}
	}
}

// elemOf is the type behind pointers and lists.
func elemOf(t reflect.Type) reflect.Type {
	for (t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice) && !feature.Opaque(t) {
		t = t.Elem()
	}
	return t
}

// fieldOf finds the field of a struct that encoding/json fills from a key. It
// compares as encoding/json does, without regard to case.
func fieldOf(t reflect.Type, key string) (reflect.StructField, bool) {
	if t.Kind() != reflect.Struct || feature.Opaque(t) {
		return reflect.StructField{}, false
	}
	for f := range feature.Fields(t, "json") {
		if strings.EqualFold(f.Key, key) {
			return f.StructField, true
		}
	}
	return reflect.StructField{}, false
}

// criticalKeys lists the paths of fields that are set and tagged critical.
func criticalKeys(v reflect.Value, path string) []string {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			return criticalKeys(v.Elem(), path)
		}
	case reflect.Slice:
		var out []string
		for i := range v.Len() {
			out = append(out, criticalKeys(v.Index(i), path)...)
		}
		return out
	case reflect.Struct:
		return criticalFields(v, path)
	}
	return nil
}

func criticalFields(v reflect.Value, path string) []string {
	var out []string
	for f := range feature.Fields(v.Type(), "json") {
		field := v.FieldByIndex(f.Index)
		if field.IsZero() {
			continue
		}
		if f.Tag.Get("critical") == "true" {
			out = append(out, path+f.Key)
		}
		out = append(out, criticalKeys(field, path+f.Key+".")...)
	}
	return out
}
