package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/toe-project/toe/internal/nsexec"
)

// A host without /etc/resolv.conf runs the command all the same: there is
// nothing that the card's could be laid over.
func TestBindsWithoutResolvConf(t *testing.T) {
	dir := t.TempDir()
	there, missing := filepath.Join(dir, "there"), filepath.Join(dir, "missing")
	if err := os.WriteFile(there, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	has := func(list []nsexec.Bind) bool {
		for _, b := range list {
			if b.Source == "/card/resolv.conf" {
				return true
			}
		}
		return false
	}
	if !has(binds("/card/resolv.conf", there)) {
		t.Error("the card's resolv.conf is not laid over the host's")
	}
	if has(binds("/card/resolv.conf", missing)) {
		t.Error("a bind over a file that is not there")
	}
	dangling := filepath.Join(dir, "dangling")
	if err := os.Symlink(missing, dangling); err != nil {
		t.Fatal(err)
	}
	list := binds("/card/resolv.conf", dangling)
	if !has(list) || !list[0].NoFollow || binds("/card/resolv.conf", there)[0].NoFollow {
		t.Errorf("over a link that leads nowhere: %+v", list)
	}
}

func TestNoSuchCommandIsSaidOnce(t *testing.T) {
	for name, want := range map[string]string{
		"te-no-such-program": `"te-no-such-program": executable file not found in $PATH`,
		"./no-such-program":  `"./no-such-program": no such file or directory`,
	} {
		_, err := exec.LookPath(name)
		if got := withoutExec(err).Error(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
