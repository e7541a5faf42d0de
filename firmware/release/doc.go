// Package release holds the keys that sign firmware, and makes signed bundles of images.
//
// A card installs a bundle only if its signature leads to a certificate of its keyring. The card
// checks it, with RAUC and OpenSSL; nothing here is needed to install. The folder of keys has
//
//	ca.pem        key and certificate of the authority; may lie on another medium, see docs/updates.md
//	release.pem   key and certificate that sign bundles, issued by the authority
//	chain.pem     authorities issued by an earlier authority; absent before the first rotation of one
//	keyring.pem   certificates of the authorities that cards trust; public, part of each image
//
// Key and certificate are in one file, so that a rotation replaces both or none.
package release
