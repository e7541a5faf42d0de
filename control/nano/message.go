package nano

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// Port is the UDP port on a link that questions go to.
const Port = 7464

// kind is what a question asks for.
type kind uint32

const (
	status kind = iota
	reboot
	powerOff
)

const (
	headSize = 16
	codeSize = 8
	// maxAnswer bounds an answer, in bytes.
	maxAnswer = headSize + 12 + 4*maxDevices + codeSize
)

// question encodes a question. Numbers are big-endian.
//
//	0  magic   4  "toe?"
//	4  kind    4
//	8  number  8  the answer repeats it; that of a command is above those of all commands before
//	16 code    8  of the bytes before
func question(k kind, number uint64, key Key) []byte {
	b := append(make([]byte, 0, headSize+codeSize), "toe?"...)
	b = binary.BigEndian.AppendUint32(b, uint32(k))
	b = binary.BigEndian.AppendUint64(b, number)
	return binary.BigEndian.AppendUint64(b, key.code(b))
}

// answer is what the card says.
//
//	0  magic    4  "toe!"
//	4  kind     4  of the question
//	8  number   8  of the question
//	16 uptime   8  ms
//	24 devices  4
//	28 errors   4  for each device: an errno of the card's kernel, 0 for none
//	   code     8  of the bytes before
type answer struct {
	uptime time.Duration
	errors []syscall.Errno // of links and ports, in the order of the file
}

var errForeign = errors.New("not an answer to this question")

// parseAnswer checks and decodes an untrusted answer to a question.
func parseAnswer(b, asked []byte, key Key) (*answer, error) {
	n := len(b) - codeSize
	switch {
	case len(b) < headSize+12+codeSize || len(b) > maxAnswer:
		return nil, fmt.Errorf("%w: %d bytes", errForeign, len(b))
	case string(b[:4]) != "toe!" || !bytes.Equal(b[4:headSize], asked[4:headSize]):
		return nil, errForeign
	case binary.BigEndian.Uint64(b[n:]) != key.code(b[:n]):
		return nil, fmt.Errorf("%w: another key", errForeign)
	}
	a := &answer{}
	up := binary.BigEndian.Uint64(b[headSize:])
	if up > uint64(100*365*24*time.Hour/time.Millisecond) {
		return nil, fmt.Errorf("%w: an uptime of %d ms", errForeign, up)
	}
	a.uptime = time.Duration(up) * time.Millisecond
	devices := binary.BigEndian.Uint32(b[headSize+8:])
	rest := b[headSize+12 : n]
	if uint64(len(rest)) != 4*uint64(devices) {
		return nil, fmt.Errorf("%w: %d devices in %d bytes", errForeign, devices, len(rest))
	}
	for ; len(rest) > 0; rest = rest[4:] {
		a.errors = append(a.errors, syscall.Errno(binary.BigEndian.Uint32(rest)))
	}
	return a, nil
}
