package control

import (
	"context"
	"math"
	"unicode/utf8"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/toe-project/toe/internal/tail"
)

// Bounds on one answer of a card. The card is not trusted: its answers are
// kept, put into JSON and shown on terminals.
const (
	maxAnswer  = 1 << 20     // bytes of one message
	maxText    = 4<<10 + 256 // bytes of one string; a line of the log has 4 KiB
	maxEntries = 256         // entries of one list
	maxCounts  = 64          // entries of one map
	maxCount   = 64          // bytes of one key of a map
)

// scrubber is the interceptor that bounds everything a card says: each message
// by scrub, and the text of each error.
type scrubber struct{}

func (scrubber) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, q connect.AnyRequest) (connect.AnyResponse, error) {
		r, err := next(ctx, q)
		if err != nil {
			return nil, scrubError(err)
		}
		if m, ok := r.Any().(proto.Message); ok {
			scrub(m.ProtoReflect())
		}
		return r, nil
	}
}

func (scrubber) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		return scrubbedStream{next(ctx, spec)}
	}
}

func (scrubber) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

type scrubbedStream struct{ connect.StreamingClientConn }

func (s scrubbedStream) Receive(msg any) error {
	err := s.StreamingClientConn.Receive(msg)
	if m, ok := msg.(proto.Message); ok && err == nil {
		scrub(m.ProtoReflect())
	}
	return scrubError(err)
}

// scrubbedError shows another text than the error in it.
type scrubbedError struct {
	error
	text string
}

func (e scrubbedError) Error() string { return e.text }
func (e scrubbedError) Unwrap() error { return e.error }

// LineBreak stands for a line break in what a card says: control characters do not reach the host.
const LineBreak = " | "

// scrubError makes the text of an error fit for a terminal. The card writes
// part of it: the message of a refusal, the names in its certificate.
func scrubError(err error) error {
	if err == nil || visible(err.Error(), maxText) == err.Error() {
		return err
	}
	return scrubbedError{err, visible(err.Error(), maxText)}
}

// scrub bounds the lengths of a message's strings, lists and maps, takes
// control characters out and makes numbers finite, so that they fit JSON.
func scrub(m protoreflect.Message) {
	m.SetUnknown(nil)
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			scrubMap(v.Map(), f.MapValue())
		case f.IsList():
			scrubList(v.List(), f)
		default:
			m.Set(f, scrubValue(f, v, maxText))
		}
		return true
	})
}

func scrubList(l protoreflect.List, f protoreflect.FieldDescriptor) {
	if l.Len() > maxEntries {
		l.Truncate(maxEntries)
	}
	for i := range l.Len() {
		l.Set(i, scrubValue(f, l.Get(i), maxText))
	}
}

func scrubMap(m protoreflect.Map, value protoreflect.FieldDescriptor) {
	left := maxCounts
	m.Range(func(key protoreflect.MapKey, v protoreflect.Value) bool {
		if s, ok := key.Interface().(string); left == 0 || ok && visible(s, maxCount) != s {
			m.Clear(key)
			return true
		}
		left--
		m.Set(key, scrubValue(value, v, maxText))
		return true
	})
}

func scrubValue(f protoreflect.FieldDescriptor, v protoreflect.Value, limit int) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(visible(v.String(), limit))
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		if x := v.Float(); math.IsNaN(x) || math.IsInf(x, 0) {
			if f.Kind() == protoreflect.FloatKind {
				return protoreflect.ValueOfFloat32(0)
			}
			return protoreflect.ValueOfFloat64(0)
		}
	case protoreflect.EnumKind:
		if f.Enum().Values().ByNumber(v.Enum()) == nil {
			return protoreflect.ValueOfEnum(0)
		}
	case protoreflect.MessageKind:
		scrub(v.Message())
	}
	return v
}

// visible is s, at most limit bytes of it, without what a terminal acts on.
func visible(s string, limit int) string {
	if len(s) > limit {
		cut := limit - len("…")
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "…"
	}
	return tail.Visible(s, "")
}
