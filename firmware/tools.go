package firmware

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// ErrTools means that programs that a build needs are not installed. The message has the command
// that installs them.
var ErrTools = errors.New("programs are missing")

// needTools checks for the programs in packageOf, which maps each to its Debian package.
func needTools(packageOf map[string]string) error {
	var programs, packages []string
	for program, name := range packageOf {
		if _, err := exec.LookPath(program); err != nil {
			programs = append(programs, program)
			packages = append(packages, name)
		}
	}
	if len(programs) == 0 {
		return nil
	}
	slices.Sort(programs)
	slices.Sort(packages)
	return fmt.Errorf("%w: %s; fix: apt-get install %s",
		ErrTools, strings.Join(programs, ", "), strings.Join(slices.Compact(packages), " "))
}
