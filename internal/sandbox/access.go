package sandbox

import (
	"fmt"
	"os"
)

// Admit makes sure that the user of a cell can read a file, or with write also
// write it (which is what connecting to a socket takes). The cell binds the
// file itself, so the directories above it may stay closed to that user.
//
// A root caller gives the file to that user unless its mode admits all users. Cells of other
// callers run as the caller, and Admit does nothing.
func Admit(path string, uid, gid int, write bool) error {
	if os.Geteuid() != 0 || !ownUser() {
		return nil
	}
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	need := os.FileMode(0o004)
	if write {
		need = 0o006
	}
	if st.Mode().Perm()&need == need {
		return nil
	}
	if err := os.Chown(path, orNobody(uid), orNobody(gid)); err != nil {
		return fmt.Errorf("giving %s to user %d: %w", path, orNobody(uid), err)
	}
	return nil
}
