package status

import "time"

// Packages is what differs on a card of edition debian from its image as flashed, and what is newer.
type Packages struct {
	Installed int               `json:"installed"`
	Added     int               `json:"added"`
	Removed   int               `json:"removed"`
	Upgraded  int               `json:"upgraded"` // or downgraded: of another version
	Changes   []PackageChange   `json:"changes"`  // at most 200
	Pending   int               `json:"pending"`
	Security  int               `json:"security"` // of pending
	Origins   map[string]uint32 `json:"origins"`  // pending updates by origin
	Updates   []PackageUpdate   `json:"updates"`  // at most 200
	// Lists is when the card read the lists of its mirrors; zero for never.
	Lists time.Time `json:"lists,omitzero"`
}

// PackageChange is a package of another version than in the image. An empty version means that it is
// missing there.
type PackageChange struct {
	Name string `json:"name"`
	From string `json:"from"` // in the image
	To   string `json:"to"`   // on the card
}

// PackageUpdate is what an upgrade would install.
type PackageUpdate struct {
	Name     string `json:"name"`
	From     string `json:"from"` // empty for a new package
	To       string `json:"to"`
	Origin   string `json:"origin"`
	Security bool   `json:"security"`
}
