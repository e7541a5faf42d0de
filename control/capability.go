package control

// The capabilities of cards, which a card lists in its status. A card from
// before the list sends none. A name is a word, or a word, a dot and a value.
const (
	// CapIgnore: the card ignores keys that it does not know (ParseConfig).
	CapIgnore = "ignore"
	// CapInstall: the card installs bundles (Install).
	CapInstall = "install"
	// CapZeroTrust: only its administrators change the card (Config.ZeroTrust).
	CapZeroTrust = "zero-trust"
	// CapUpgrade: the card upgrades its packages in its other slot (Upgrade).
	CapUpgrade = "upgrade"
	// CapMode comes before the name of each mode that the card knows.
	CapMode = "mode."
)
