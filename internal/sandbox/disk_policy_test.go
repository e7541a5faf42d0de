//go:build amd64 || arm64

package sandbox

import (
	"testing"

	"golang.org/x/sys/unix"
)

// A disk's worker may use its file, and that only; a read-only one may not change it. A pump may not
// do any of this.
func TestDiskPolicy(t *testing.T) {
	const file, other = 7, 8
	calls := map[string]uintptr{
		"preadv": unix.SYS_PREADV, "pwritev": unix.SYS_PWRITEV,
		"fdatasync": unix.SYS_FDATASYNC, "fallocate": unix.SYS_FALLOCATE,
	}
	for _, c := range []struct {
		name string
		disk *DiskFile
		fd   uint64
		want map[string]Action // Kill for those that are not named
	}{
		{"its file", &DiskFile{FD: file}, file,
			map[string]Action{"preadv": Allow, "pwritev": Allow, "fdatasync": Allow, "fallocate": Allow}},
		{"another file", &DiskFile{FD: file}, other, nil},
		{"a read-only disk", &DiskFile{FD: file, ReadOnly: true}, file, map[string]Action{"preadv": Allow}},
		{"a pump", nil, file, nil},
	} {
		p := pumpPolicy(4242, c.disk)
		for name, nr := range calls {
			want := Action(Kill)
			if a, ok := c.want[name]; ok {
				want = a
			}
			if got := run(t, p, auditArch, nr, c.fd); got != want {
				t.Errorf("%s: %s: action %#x, want %#x", c.name, name, got, want)
			}
		}
	}
}
