package spec

import (
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
)

func CheckAuthorizedKey(line string) error {
	if strings.ContainsAny(line, "\n\r") {
		return fmt.Errorf("want one key in each entry")
	}
	_, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	switch {
	case err != nil || len(rest) > 0:
		return fmt.Errorf("want a public key as in authorized_keys(5), such as ssh-ed25519 AAAA… you@there")
	case len(options) > 0:
		return fmt.Errorf("has options (%s): want the key only", strings.Join(options, ","))
	}
	return nil
}
