// Package transfer copies files and directories between the host and a card, by SFTP version 3.
//
// A copy has two steps. A plan lists what there is, and checks it. Then the plan is carried
// out: each file is written under a temporary name and renamed, so that no target is ever half
// written.
//
// A card is hostile. Its names are checked, its lists, files and their sum are bounded, and
// nothing is written outside of the target directory (os.Root).
package transfer

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/toe-project/toe/internal/progress"
	"github.com/toe-project/toe/internal/tail"
)

// Bounds of one copy.
const (
	maxEntries = 1 << 18  // files and directories
	maxDepth   = 64       // directories in each other
	maxList    = 64 << 20 // bytes of one directory's list
	slack      = 1 << 20  // bytes that a file may be larger than the card says: it grows
)

// Options are how to copy.
type Options struct {
	Recursive bool  // directories too
	MaxBytes  int64 // in all, of a copy from a card; 0 for no bound
	Progress  *progress.Progress
	// Problem is called for what is not copied while the rest is. It may be nil.
	Problem func(path string, err error)
}

func (o *Options) problem(res *Result, path string, err error) {
	res.Failed++
	if o.Problem != nil {
		o.Problem(path, err)
	}
}

// Result is what was copied.
type Result struct {
	Files  int   `json:"files"`
	Bytes  int64 `json:"bytes"`
	Failed int   `json:"failed"` // that were not copied
}

// entry is a file, a directory or a symbolic link of a plan.
type entry struct {
	from string // as its own side names it
	to   string // below the target directory, with slashes
	kind fs.FileMode
	perm fs.FileMode
	size int64
	link string // where a symbolic link leads
}

// ErrDirectory: a directory is copied with Recursive only.
var ErrDirectory = errors.New("is a directory; want -r")

// checkName refuses what cannot be one name in a directory, or what a terminal would act on.
func checkName(name string) error {
	switch {
	case name == "" || name == "." || name == ".." || strings.Contains(name, "/"):
		return fmt.Errorf("name %q: want one name, with no slash", name)
	case len(name) > 255:
		return fmt.Errorf("name of %d bytes: want at most 255", len(name))
	case tail.Visible(name, "") != name:
		return fmt.Errorf("name %q: want printable characters", name)
	}
	return nil
}

// checkLink refuses a symbolic link that leads out of the copied tree, depth directories above
// the link. It may begin with "..", and has none later: what comes before could be a link too.
func checkLink(link string, depth int) error {
	refused := fmt.Errorf("symbolic link to %q: want one that stays in the copied directory", link)
	if link == "" || strings.HasPrefix(link, "/") || tail.Visible(link, "") != link {
		return refused
	}
	leading := true
	for part := range strings.SplitSeq(link, "/") {
		switch {
		case part != "..":
			leading = leading && (part == "" || part == ".")
		case !leading || depth == 0:
			return refused
		default:
			depth--
		}
	}
	return nil
}
