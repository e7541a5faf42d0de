// Package control is the API between a host and its card: the configuration of
// the card, the keys that authenticate both sides, and the calls. The generated
// protocol is in control/cardpb. docs/control.md has the rules for a host and a
// card of different versions.
package control

//go:generate protoc --go_out=. --go_opt=module=github.com/toe-project/toe/control --connect-go_out=. --connect-go_opt=module=github.com/toe-project/toe/control,package_suffix=,simple=true control.proto

const (
	// APIPort is the TCP port of the API on a card's link addresses.
	APIPort = 7464
	// ProxyPort is where endpoint mode listens for the host's traffic, on the
	// card's loopback addresses (package offload's proxyPort).
	ProxyPort = 7465
	// OfferPath is where the host begins to serve one file to its card, on the connection that it
	// opened itself: a GET that asks to be upgraded to OfferProtocol, after which the card sends
	// HTTP/2 requests and the host answers them.
	OfferPath     = "/offer"
	OfferProtocol = "toe-offer"
	// ServerName is the name in every card's certificate. A card's address
	// changes; its key does not.
	ServerName = "card.toe"
	// LinkMAC is the address that every link's device has on the card while it is
	// up: the destination in the constant Ethernet header that the pump writes
	// (docs/link.md). Before that, Link.MAC tells the card's links apart; nothing
	// else on a link looks at an address.
	LinkMAC = "02:74:6f:65:00:01"
	// ConfigPath and KeysDir are the files on the card that its host wrote.
	ConfigPath = "/etc/toe/card.json"
	KeysDir    = "/etc/toe/keys"
	// ImagePath holds the SHA-256, in hex, of the manifest of the image that the
	// card runs. What chose the image writes it: the host, or a boot loader.
	ImagePath = "/etc/toe/image"
)
