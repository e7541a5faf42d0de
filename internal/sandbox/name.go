package sandbox

import "os"

// SetName sets the name of this process in ps and top, at most 15 bytes. A process that was started
// as /proc/self/exe is called "exe" otherwise. Without /proc nothing shows the name.
func SetName(name string) {
	// Not prctl(PR_SET_NAME), which names the thread that happens to call.
	_ = os.WriteFile("/proc/self/comm", []byte(name), 0)
}
