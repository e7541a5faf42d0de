//go:build !amd64

package sandbox

// hasUML is false: User-Mode Linux is an x86 port.
const hasUML = false

func umlPolicy() Policy { return Policy{} }
