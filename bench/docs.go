package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxReport bounds a report that is read back, in bytes.
const maxReport = 16 << 20

// ReadReport reads the JSON of a run.
func ReadReport(r io.Reader) (rep Report, err error) {
	b, err := io.ReadAll(io.LimitReader(r, maxReport))
	if err == nil {
		err = json.Unmarshal(b, &rep)
	}
	if err == nil && len(rep.Results) == 0 {
		err = errors.New("no results: want what `toe bench --json` prints")
	}
	return rep, err
}

// The marks in a document around a report's figures.
const (
	figuresBegin = "<!-- figures: toe bench report FILE --docs THIS -->\n"
	figuresEnd   = "<!-- end of figures -->"
)

// Into replaces the figures in a document, between its marks.
func (rep Report) Into(doc []byte) ([]byte, error) {
	before, rest, ok := strings.Cut(string(doc), figuresBegin)
	_, after, closed := strings.Cut(rest, figuresEnd)
	if !ok || !closed {
		return nil, fmt.Errorf("the document lacks the lines %q and %q, between which the figures go", strings.TrimSpace(figuresBegin), figuresEnd)
	}
	var b bytes.Buffer
	b.WriteString(before + figuresBegin + "\n")
	fmt.Fprintf(&b, "Run of %s.\n\n```\n", rep.Time.Format("2 January 2006, 15:04 UTC"))
	rep.Print(&b)
	b.WriteString("```\n\n" + figuresEnd + after)
	return b.Bytes(), nil
}
