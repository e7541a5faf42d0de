package firmware

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Offsets in the setup header of a bzImage, all little-endian; see the
// kernel's Documentation/arch/x86/boot.rst.
//
//	0x1f1  setup_sects     1   sectors of 512 bytes before the protected-mode code, less one
//	0x202  header          4   "HdrS"
//	0x206  version         2   payload_* exist since 2.08
//	0x248  payload_offset  4   from the beginning of the protected-mode code
//	0x24c  payload_length  4
const (
	offSetupSects    = 0x1f1
	offHeader        = 0x202
	offVersion       = 0x206
	offPayloadOffset = 0x248
	offPayloadLength = 0x24c
	setupHeaderEnd   = 0x250

	sector            = 512
	protocolOfPayload = 0x0208
)

// vmlinux returns the kernel in a bzImage as the ELF file that PVH boots. This saves running the
// decompressor in the guest.
func vmlinux(ctx context.Context, bzImage []byte) ([]byte, error) {
	payload, err := payloadOf(bzImage)
	if err != nil {
		return nil, fmt.Errorf("bzImage: %w", err)
	}
	kernel, err := decompress(ctx, payload)
	if err != nil {
		return nil, fmt.Errorf("bzImage: decompressing the kernel: %w", err)
	}
	if _, err := elf.NewFile(bytes.NewReader(kernel)); err != nil {
		return nil, fmt.Errorf("bzImage: the payload is not an ELF file: %w", err)
	}
	return kernel, nil
}

func payloadOf(b []byte) ([]byte, error) {
	le := binary.LittleEndian
	if len(b) < setupHeaderEnd || string(b[offHeader:offHeader+4]) != "HdrS" {
		return nil, fmt.Errorf("no setup header in %d bytes", len(b))
	}
	if v := le.Uint16(b[offVersion:]); v < protocolOfPayload {
		return nil, fmt.Errorf("boot protocol %d.%02d, want 2.08 or later", v>>8, v&0xff)
	}
	setup := int64(b[offSetupSects])
	if setup == 0 {
		setup = 4 // the protocol's meaning of 0
	}
	start := (setup+1)*sector + int64(le.Uint32(b[offPayloadOffset:]))
	end := start + int64(le.Uint32(b[offPayloadLength:]))
	if start >= end || end > int64(len(b)) {
		return nil, fmt.Errorf("payload from byte %d to %d is outside the file of %d bytes", start, end, len(b))
	}
	return b[start:end], nil
}

// decompress detects the method from the first bytes, because the kernel's build does not record
// it. For methods without the unpacked size the build appends it, 4 bytes.
func decompress(ctx context.Context, b []byte) ([]byte, error) {
	switch {
	case bytes.HasPrefix(b, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return unzstd(b[:len(b)-4])
	case bytes.HasPrefix(b, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return unxz(ctx, b[:len(b)-4])
	case bytes.HasPrefix(b, []byte{0x1f, 0x8b}):
		r, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(io.LimitReader(r, maxMember))
	}
	return nil, fmt.Errorf("unknown method, the payload begins with % x; zstd, xz and gzip are known", b[:min(6, len(b))])
}

func unzstd(b []byte) ([]byte, error) {
	r, err := zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderMaxMemory(maxMember), zstd.WithDecoderMaxWindow(maxMember/2))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, maxMember))
}
