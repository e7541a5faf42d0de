package agent

import (
	"regexp"
	"strings"
)

// reasons maps RAUC's words to what is wrong and what is wanted. $1 and $2 are parts of them.
var reasons = []struct {
	said *regexp.Regexp
	why  string
}{
	{regexp.MustCompile(`^Compatible mismatch: Expected '(.*)' but bundle manifest has '(.*)'`),
		"the bundle is for $2, want one for $1"},
	{regexp.MustCompile(`^Version mismatch: Expected at least '(.*)' but bundle manifest has '(.*)'`),
		"the bundle has version $2, this card runs $1; want a later one, or --allow-downgrade"},
	{regexp.MustCompile(`^Version mismatch: Expected at least '(.*)' but bundle manifest has no version`),
		"the bundle has no version, this card runs $1; want a later one"},
	{regexp.MustCompile(`^Failed to parse semantic version .* component '(.*)' as`),
		"the bundle has version $1; want numbers, such as 2026.1128.915"},
	{regexp.MustCompile(`certificate has expired`),
		"the certificate that signed the bundle has expired; want a bundle of a valid one: " +
			"`toe firmware keys rotate` and bundle again, and check the card's clock"},
	{regexp.MustCompile(`certificate is not yet valid`),
		"the certificate that signed the bundle is not valid yet; check the card's clock"},
	{regexp.MustCompile(`unsuitable certificate purpose`),
		"the certificate that signed the bundle is not for signing code; want one of `toe firmware keys`"},
	{regexp.MustCompile(`unable to get (local )?issuer certificate|self-signed certificate`),
		"the bundle is signed by a key that the card's keyring does not trust; " +
			"want one signed with the card's release keys"},
	{regexp.MustCompile(`(?i)keyring`),
		"this card has no usable keyring; want an image made where `toe firmware keys init` was run, " +
			"or /data/rauc/keyring.pem on the card"},
	{regexp.MustCompile(`^signature verification failed`),
		"the signature does not fit the bundle, which is damaged"},
	{regexp.MustCompile(`^Invalid bundle format: .*exceeds max-bundle-signature-size`),
		"the bundle's signature and manifest are too large"},
	{regexp.MustCompile(`^Invalid bundle format|too small|Failed to parse manifest|no valid CMS`),
		"the bundle is truncated or damaged, or the file is none"},
	{regexp.MustCompile(`^Failed to load manifest: (.*)`),
		"the bundle's manifest cannot be used: $1"},
	{regexp.MustCompile(`Failed mounting bundle: (?:Missing size|Failed to load dm table)`),
		"the bundle's manifest describes no usable hash tree"},
	{regexp.MustCompile(`Failed mounting bundle`),
		"the bundle is damaged"},
	{regexp.MustCompile(`Failed updating slot (\S+): Failed to copy data`),
		"slot $1: the bundle is damaged there, or its download broke off"},
	{regexp.MustCompile(`^Failed to (stream|download)|HTTP|nbd`),
		"the bundle cannot be downloaded"},
}

// explain makes the error of an installation. refused is what the pre-install handler said.
func (s raucSaid) explain(refused string) *installError {
	e := &installError{touched: s.writing || strings.HasPrefix(s.last, "Installation error")}
	s.writing = e.touched
	switch {
	case strings.HasPrefix(s.last, "Pre-install handler error") && refused != "":
		e.text = refused
	case s.last == "":
		e.text = "RAUC ended without saying why; see `journalctl -u rauc` on the card"
	default:
		e.text = "RAUC: " + s.last
		for _, r := range reasons {
			if m := r.said.FindStringSubmatchIndex(s.last); m != nil {
				e.text = string(r.said.ExpandString(nil, r.why, s.last, m)) + " (RAUC: " + s.last + ")"
				break
			}
		}
	}
	e.text += s.consequence()
	return e
}
