package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// roleVariable makes this program play a role instead of testing: that of a user's command under
// toe exec.
const roleVariable = "TOE_E2E_ROLE"

func play(role string, args []string) int {
	switch {
	case role == "tune" && len(args) > 0:
		return told(playTune(args))
	case role == "send" && len(args) == 2:
		return told(playSend(args[0], args[1]))
	case role == "halfclose" && len(args) == 1:
		return told(playHalfClose(args[0]))
	case role == "echo":
		return told(playEcho(args))
	case role != "get" || len(args) != 1:
		fmt.Fprintf(os.Stderr, "role %q with %d arguments: there are get URL, tune WHAT…, send FILE ADDRESS, halfclose ADDRESS, echo PORT…\n", role, len(args))
		return 2
	}
	client := http.Client{Timeout: 15 * time.Second}
	reply, err := client.Get(args[0])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer reply.Body.Close()
	if _, err := io.Copy(os.Stdout, reply.Body); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func told(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
