package spec

import (
	"cmp"
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"

	"github.com/toe-project/toe/feature"
	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/service"
)

// Schema is the JSON schema of card.yaml, made from the tags of Spec.
func Schema() ([]byte, error) {
	s := schemaOf(reflect.TypeFor[Spec]())
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "card.yaml of toe"
	return json.MarshalIndent(s, "", "  ")
}

// textTypes are the types that are read from a string, with its pattern.
var textTypes = map[reflect.Type]string{
	reflect.TypeFor[Arch]():          `^(` + strings.Join(arch.Names(), "|") + `)$`,
	reflect.TypeFor[Memory]():        `^[1-9][0-9]* ?(KiB|MiB|GiB)$`,
	reflect.TypeFor[Attach]():        `^(user|(tap|bridge|macvtap):[^/: %]{1,15}|netns:[^/ ]+/[^/: %]{1,15})$`,
	reflect.TypeFor[PortAddr]():      `^(dhcp|ra|[0-9a-fA-F.:]+/[0-9]{1,3})$`,
	reflect.TypeFor[feature.Range](): `^[0-9a-fA-F.:]+(/[0-9]{1,3})?$`,
	reflect.TypeFor[Prefix]():        `^[0-9a-fA-F.:]+/[0-9]{1,3}$`,
	reflect.TypeFor[netip.Addr]():    `^[0-9a-fA-F.:]+(%.+)?$`,
}

// numberTypes are read from a string or from a number, from lo to hi.
var numberTypes = map[reflect.Type]struct {
	lo, hi  int
	pattern string
}{
	reflect.TypeFor[feature.PortRange](): {1, 65535, `^[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?$`},
	reflect.TypeFor[Target]():            {1, 65535, `^([1-9][0-9]{0,4}|[0-9.]+:[1-9][0-9]{0,4}|\[[0-9a-fA-F:]+\]:[1-9][0-9]{0,4})$`},
	reflect.TypeFor[feature.DSCP]():      {0, 63, `^([cC][sS][0-7]|[aA][fF][1-4][1-3]|[eE][fF]|[vV][aA]|[lL][eE]|[0-9]{1,2})$`},
}

func schemaOf(t reflect.Type) map[string]any {
	if n, ok := numberTypes[t]; ok {
		return map[string]any{"type": []string{"integer", "string"}, "minimum": n.lo, "maximum": n.hi, "pattern": n.pattern}
	}
	if pattern, ok := textTypes[t]; ok {
		return map[string]any{"type": "string", "pattern": pattern}
	}
	if t == reflect.TypeFor[Services]() {
		return map[string]any{"type": "object", "properties": service.Schemas(), "additionalProperties": map[string]any{"type": []string{"object", "null"}}}
	}
	switch t.Kind() {
	case reflect.Struct:
		return structSchema(t)
	case reflect.Slice:
		return map[string]any{"type": "array", "items": schemaOf(t.Elem())}
	case reflect.Pointer:
		return schemaOf(t.Elem())
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int:
		return map[string]any{"type": "integer"}
	case reflect.String:
		return map[string]any{"type": "string"}
	}
	panic("card: no schema for " + t.String()) // a bug in Spec
}

func structSchema(t reflect.Type) map[string]any {
	props, required := map[string]any{}, []string{}
	for f := range feature.Fields(t, "yaml") {
		p := schemaOf(f.Type)
		describe(p, f.Tag)
		switch lo, hi, ok := feature.Bounds(f.StructField); {
		case ok && f.Type.Kind() == reflect.Slice:
			p["maxItems"] = hi
		case ok:
			p["minimum"], p["maximum"] = lo, hi
		}
		props[f.Key] = p
		if f.Tag.Get("required") != "" {
			required = append(required, f.Key)
		}
	}
	out := map[string]any{"type": "object", "additionalProperties": false, "properties": props}
	if len(required) > 0 {
		out["required"] = required
	}
	return out
}

func describe(p map[string]any, tag reflect.StructTag) {
	doc := tag.Get("doc")
	if def := cmp.Or(tag.Get("default"), tag.Get("absent")); def != "" {
		doc += " (default: " + def + ")"
	}
	if mode := tag.Get("mode"); mode != "" {
		doc += " (only in mode: " + mode + ")"
	}
	p["description"] = doc
	if enum := tag.Get("enum"); enum != "" {
		p["enum"] = strings.Split(enum, "|")
	}
}
