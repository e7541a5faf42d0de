package flash

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"slices"
	"strings"
)

// The environment is stored as U-Boot stores a redundant one on a block device
// (CONFIG_ENV_REDUNDANT; the struct env_redundant):
//
//	0      4     5
//	+------+-----+----------------------------------------+
//	| CRC  | flag| name=value NUL name=value NUL … NUL NUL |   envCopy bytes
//	+------+-----+----------------------------------------+
//
// CRC is the CRC-32 of what follows the flag, little-endian. The flag counts the writes, modulo 256:
// of two copies with a right CRC the later one counts. The lines of /etc/fw_env.config are
//
//	/dev/disk/by-partlabel/env 0x0     0x4000
//	/dev/disk/by-partlabel/env 0x10000 0x4000
const (
	envCopy   = 0x4000  // bytes of one copy
	envSecond = 0x10000 // offset of the second
	envSpan   = envSecond + envCopy
	envHeader = 5
)

// FwEnvConfig is the content of a card's /etc/fw_env.config.
var FwEnvConfig = fmt.Sprintf("/dev/disk/by-partlabel/%[1]s 0x0 %#[2]x\n/dev/disk/by-partlabel/%[1]s %#[3]x %#[2]x\n",
	EnvName, envCopy, envSecond)

// ErrNoEnv means that neither copy of the environment is valid. U-Boot then uses its default
// environment, and so does Choose with an empty Env.
var ErrNoEnv = errors.New("no valid copy of the boot environment")

// Env is a boot environment: its variables by name. Names and values are the card's: they are
// untrusted, have no NUL, and a name has no '='.
type Env map[string]string

// parseCopy decodes one copy of envCopy bytes. Items without '=' and without a name are ignored, as
// U-Boot does; of two with one name the later counts.
func parseCopy(b []byte) (env Env, flag byte, ok bool) {
	if len(b) != envCopy || binary.LittleEndian.Uint32(b) != crc32.ChecksumIEEE(b[envHeader:]) {
		return nil, 0, false
	}
	env = Env{}
	for rest := b[envHeader:]; ; {
		item, after, found := bytes.Cut(rest, []byte{0})
		if !found || len(item) == 0 {
			return env, b[4], true
		}
		if name, value, ok := strings.Cut(string(item), "="); ok && name != "" {
			env[name] = value
		}
		rest = after
	}
}

// encodeCopy is the inverse of parseCopy. The names are sorted, as U-Boot writes them.
func (e Env) encodeCopy(flag byte) ([]byte, error) {
	b := make([]byte, envHeader, envCopy)
	for _, name := range slices.Sorted(maps.Keys(e)) {
		value := e[name]
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
			return nil, fmt.Errorf("boot environment: variable %.40q: want a name without '=' and no NUL", name)
		}
		b = append(b, name+"="+value+"\x00"...)
	}
	if len(b)+1 > envCopy {
		return nil, fmt.Errorf("boot environment: %d bytes of variables, want at most %d", len(b)-envHeader, envCopy-envHeader-1)
	}
	b = b[:envCopy]
	b[4] = flag
	binary.LittleEndian.PutUint32(b, crc32.ChecksumIEEE(b[envHeader:]))
	return b, nil
}

// copies are both copies as they are stored.
type copies struct {
	env   [2]Env // nil where the CRC is wrong
	flag  [2]byte
	newer int // the copy that counts; -1 where none is valid
}

var envOffsets = [2]int64{0, envSecond}

// readCopies reads the environment from its partition.
func readCopies(r io.ReaderAt) (copies, error) {
	c := copies{newer: -1}
	for i, off := range envOffsets {
		b := make([]byte, envCopy)
		if n, err := r.ReadAt(b, off); n < len(b) && err != nil && err != io.EOF {
			return c, fmt.Errorf("boot environment: %w", err)
		}
		c.env[i], c.flag[i], _ = parseCopy(b)
	}
	switch {
	case c.env[0] == nil && c.env[1] == nil:
	case c.env[1] == nil:
		c.newer = 0
	case c.env[0] == nil:
		c.newer = 1
	default:
		c.newer = newer(c.flag[0], c.flag[1])
	}
	return c, nil
}

// newer returns the copy that was written later, as U-Boot decides it: 0 follows 255.
func newer(first, second byte) int {
	switch {
	case first == 255 && second == 0:
		return 1
	case second == 255 && first == 0 || first >= second:
		return 0
	}
	return 1
}

// ReadEnv reads the environment from its partition. Errors: ErrNoEnv.
func ReadEnv(r io.ReaderAt) (Env, error) {
	c, err := readCopies(r)
	if err != nil {
		return nil, err
	}
	if c.newer < 0 {
		return nil, ErrNoEnv
	}
	return c.env[c.newer], nil
}

// Storage is a partition, open for writing. Sync returns when what was written is on the disk.
type Storage interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// WriteEnv replaces the older copy of the environment. The newer one is not touched, so a power loss
// at any byte leaves the old environment or the new one. An environment that is in force already is
// not written again.
func WriteEnv(s Storage, env Env) error {
	c, err := readCopies(s)
	if err != nil {
		return err
	}
	target, flag := 0, byte(1)
	if c.newer >= 0 {
		if maps.Equal(c.env[c.newer], env) {
			return nil
		}
		target, flag = 1-c.newer, c.flag[c.newer]+1
	}
	b, err := env.encodeCopy(flag)
	if err != nil {
		return err
	}
	if _, err := s.WriteAt(b, envOffsets[target]); err != nil {
		return fmt.Errorf("boot environment: %w", err)
	}
	if err := s.Sync(); err != nil {
		return fmt.Errorf("boot environment: %w", err)
	}
	return nil
}
