package control

import "strings"

// These are not regular expressions: compiling three of them took most of the
// agent's time before main.

// isName wants 1 to 63 letters, digits and, inside, dots, dashes and underscores.
func isName(s string) bool {
	return len(s) <= 63 && only(s, "._-") && isAlnum(s[0]) && isAlnum(s[len(s)-1])
}

// isHost wants one label of a host name (RFC 1123, section 2.1).
func isHost(s string) bool {
	return len(s) <= 63 && only(s, "-") && isAlnum(s[0]) && isAlnum(s[len(s)-1])
}

func isInterface(s string) bool {
	return len(s) <= 15 && only(s, "_-") && isAlnum(s[0]) && (s[0] < '0' || s[0] > '9')
}

// only reports whether s is not empty and has only letters, digits and others.
func only(s, others string) bool {
	for i := range len(s) {
		if !isAlnum(s[i]) && strings.IndexByte(others, s[i]) < 0 {
			return false
		}
	}
	return len(s) > 0
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func isDomain(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if len(s) == 0 || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !isHost(label) {
			return false
		}
	}
	return true
}
