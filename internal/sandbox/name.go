package sandbox

import "os"

// SetName is what ps and top call this process, at most 15 bytes of it: one that
// was started as /proc/self/exe is called "exe" otherwise. A host without /proc
// has nothing that would show it.
func SetName(name string) {
	// Not prctl(PR_SET_NAME), which names the thread that happens to call.
	_ = os.WriteFile("/proc/self/comm", []byte(name), 0)
}
