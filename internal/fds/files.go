package fds

import "os"

// CloseAll closes files; a nil one is skipped.
func CloseAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
