package torture

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/toe-project/toe/card/update"
	"github.com/toe-project/toe/firmware/release"
	"github.com/toe-project/toe/flash"
)

// badBundle is a bundle that the card refuses.
type badBundle struct {
	name  string
	bytes []byte
	says  string // what a user reads
	// touched: the damage shows only when the block is read, after the slot was marked bad.
	touched bool
}

// badBundles has a card refuse bundles. RAUC, on the card, does it; the test reads what a user reads,
// and compares the flash before and after.
func (w *world) badBundles(t *testing.T, c *card) {
	expired := w.expiring(t)
	rows := w.badRows(t)
	c.power(t, "")
	if st := c.settled(t); st.Firmware.Version != w.releases[1] {
		w.finish(t, c, 1) // what a card was flashed with has no version to compare
	}
	rows = append(rows, badBundle{name: "expired certificate", bytes: expired.wait(t), says: "has expired"})
	for _, row := range append(rows, w.torn(t)...) {
		t.Run(row.name, func(t *testing.T) {
			path := filepath.Join(w.dir, "bad.raucb")
			write(t, path, string(row.bytes))
			defer os.Remove(path)
			before := sumFlash(t, c, row.touched)
			err := w.offer(t, c, path)
			if err == nil {
				t.Fatal("the card took it")
			}
			text := strings.ReplaceAll(err.Error(), path, "BUNDLE")
			t.Logf("%s", text)
			if !strings.Contains(text, row.says) {
				t.Errorf("said %q, want %q", text, row.says)
			}
			if errors.Is(err, update.ErrRefused) == row.touched {
				t.Errorf("refused with nothing changed: %v, want %v", !row.touched, row.touched)
			}
			if after := sumFlash(t, c, row.touched); after != before {
				t.Error("the flash has changed")
			}
		})
	}
	st := c.settled(t)
	if st.Firmware.Version != w.releases[1] || st.Restarts != 0 {
		t.Errorf("afterwards the card runs %s, after %d restarts", st.Firmware.Version, st.Restarts)
	}
	c.down(t)
}

// offer is `toe firmware install --no-reboot`.
func (w *world) offer(t *testing.T, c *card, path string) error {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	_, err := update.Install(ctx, c.Card, update.Options{Source: path, NoReboot: true})
	return err
}

// sumFlash digests what an update may not change: the boot environment and both slots, but for the
// root that is mounted. Where the other slot may be touched it is left out, too.
func sumFlash(t *testing.T, c *card, touched bool) string {
	t.Helper()
	f, err := os.Open(c.Paths.Flash())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table := tableOf(t, c.Paths.Flash())
	env, err := flash.ReadEnv(table.Find(flash.EnvName).Reader(f))
	if err != nil {
		t.Fatal(err)
	}
	runs := env.Last()
	names := []string{runs.Boot()}
	if !touched {
		names = append(names, flash.EnvName, runs.Other().Boot(), runs.Other().Root())
	} else if state, _ := env.State(runs, flash.Held{Digest: env["BOOT_"+string(runs)+"_GOOD"]}); state != flash.Good {
		t.Errorf("slot %s, which runs, is %s", runs, state)
	}
	h := sha256.New()
	for _, name := range names {
		if _, err := io.Copy(h, table.Find(name).Reader(f)); err != nil {
			t.Fatal(err)
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

const (
	badVersion = "2026.1128.9" // later than all that the card has
	compatible = "toe-amd64-uml-debian"
)

// noise does not compress.
func noise(size int64) func(*os.File) error {
	return func(f *os.File) error {
		_, err := io.CopyN(f, rand.Reader, size)
		return err
	}
}

// zeros compress to nothing.
func zeros(size int64) func(*os.File) error {
	return func(f *os.File) error { return f.Truncate(size) }
}

func content(boot, root func(*os.File) error) release.Bundle {
	return release.Bundle{Compatible: compatible, Version: badVersion, Images: []release.Image{
		{Slot: release.BootSlot, Name: release.BootImage, Write: boot},
		{Slot: release.RootSlot, Name: release.RootImage, Write: root},
	}}
}

// signed makes a bundle and returns its bytes.
func signed(t *testing.T, k *release.Keys, b release.Bundle) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "b.raucb")
	if err := k.Make(t.Context(), b, path, func(string) {}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// soon is a bundle whose certificate expires soon.
type soon struct {
	bytes []byte
	at    time.Time
}

// expiring makes a bundle with a certificate that is valid just long enough to sign with, which takes
// longer on a busy machine.
func (w *world) expiring(t *testing.T) soon {
	t.Helper()
	k, err := release.Open(filepath.Join(w.dir, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	var s soon
	path := filepath.Join(t.TempDir(), "b.raucb")
	for validFor := 15 * time.Second; ; validFor *= 2 {
		s.at = time.Now().Add(validFor)
		if err := k.Rotate(release.Options{Release: time.Hour, Now: s.at.Add(-time.Hour)}); err != nil {
			t.Fatal(err)
		}
		err := k.Make(t.Context(), content(noise(64<<10), noise(64<<10)), path, func(string) {})
		if err == nil {
			break
		}
		if time.Now().Before(s.at) || validFor > limit {
			t.Fatal(err)
		}
	}
	if s.bytes, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	if err := k.Rotate(release.Options{}); err != nil {
		t.Fatal(err)
	}
	w.keys = k
	return s
}

func (s soon) wait(t *testing.T) []byte {
	if d := time.Until(s.at); d > 0 {
		t.Logf("waiting %s for a certificate to expire", d.Round(time.Second))
		time.Sleep(d + time.Second)
	}
	return s.bytes
}

// badRows are the bundles that are refused before anything is written.
func (w *world) badRows(t *testing.T) []badBundle {
	t.Helper()
	small := content(noise(2<<20), noise(2<<20))
	good := signed(t, w.keys, small)
	other, err := release.Init(filepath.Join(t.TempDir(), "keys"), release.Options{})
	if err != nil {
		t.Fatal(err)
	}
	like := func(change func(*release.Bundle)) []byte {
		b := small
		change(&b)
		return signed(t, w.keys, b)
	}
	b := layoutOf(t, good)
	edit := func(from, to string) []byte {
		return w.resigned(t, b, func(m string) string {
			if !strings.Contains(m, from) {
				t.Fatalf("%q is not in the manifest %s", from, m)
			}
			return strings.ReplaceAll(m, from, to)
		})
	}
	return []badBundle{
		{name: "half of it", says: "truncated or damaged, or the file is none (RAUC: Invalid bundle format: Signature size", bytes: good[:len(good)/2]},
		{name: "no signature", says: "truncated or damaged", bytes: good[:b.cms]},
		{name: "part of the signature", says: "exceeds bundle size", bytes: good[:b.cms+b.cmsSize/2]},
		{name: "a hundred bytes", says: "truncated or damaged", bytes: good[:100]},
		{name: "zeros", says: "Signature size is 0", bytes: make([]byte, 1<<20)},
		{name: "a web page", says: "truncated or damaged, or the file is none", bytes: []byte("<!DOCTYPE html><title>404</title>" + strings.Repeat(" ", 8192))},
		{name: "bit in the size of the signature", says: "no valid CMS", bytes: flipped(good, len(good)-2)},
		{name: "bit in the manifest", says: "the signature does not fit the bundle, which is damaged", bytes: flipped(good, b.manifest+12)},
		{name: "bit in the signature", says: "the signature does not fit", bytes: flipped(good, len(good)-20)},
		{name: "bit in the certificate", says: "the signature does not fit", bytes: flipped(good, bytes.LastIndex(good, []byte("release")))},
		{name: "bit in the superblock", says: "the bundle is damaged", bytes: flipped(good, 5)},
		{name: "bit in the tables", says: "the bundle is damaged", bytes: flipped(good, b.used-40)},
		{name: "key of another authority", says: "signed by a key that the card's keyring does not trust", bytes: signed(t, other, small)},
		{name: "older version", says: "the bundle has version 2026.1128.1, this card runs 2026.1128.2; want a later one, or --allow-downgrade", bytes: like(func(b *release.Bundle) { b.Version = "2026.1128.1" })},
		{name: "other architecture", says: "the bundle is for toe-arm64-uml-debian, want one for toe-amd64-uml-debian", bytes: like(func(b *release.Bundle) { b.Compatible = "toe-arm64-uml-debian" })},
		{name: "other machine", says: "the bundle is for toe-amd64-qemu-debian", bytes: like(func(b *release.Bundle) { b.Compatible = "toe-amd64-qemu-debian" })},
		{name: "other edition", says: "the bundle is for toe-amd64-uml-micro", bytes: like(func(b *release.Bundle) { b.Compatible = "toe-amd64-uml-micro" })},
		{name: "kernel too large", says: "image boot.img has 101711872 bytes, slot boot", bytes: signed(t, w.keys, content(zeros(97<<20), noise(64<<10)))},
		{name: "root too large", says: "image rootfs.ext4 has 419430400 bytes, slot rootfs", bytes: signed(t, w.keys, content(noise(64<<10), zeros(400<<20)))},
		{name: "decompression bomb", says: "image rootfs.ext4 has 8589934592 bytes, slot rootfs", bytes: signed(t, w.keys, content(noise(64<<10), zeros(8<<30)))},
		{name: "one image only", says: "the bundle has no image for slot rootfs", bytes: like(func(b *release.Bundle) { b.Images = b.Images[:1] })},
		{name: "manifest: empty", says: "the bundle's manifest cannot be used: No data available", bytes: w.resigned(t, b, func(string) string { return "" })},
		{name: "manifest: binary", says: "manifest cannot be used: Key file does not have group", bytes: w.resigned(t, b, func(string) string { return strings.Repeat("\x00\xff\x1b[2J", 300) })},
		{name: "manifest: no compatible", says: "manifest cannot be used: Key file does not have key", bytes: edit("compatible="+compatible, "x=y")},
		{name: "manifest: version in words", says: "the bundle has version latest; want numbers", bytes: edit("version="+badVersion, "version=latest")},
		{name: "manifest: no version", says: "manifest cannot be used: Invalid key 'x'", bytes: edit("version="+badVersion, "x=y")},
		{name: "manifest: hash of 10^6 digits", says: "signature and manifest are too large", bytes: edit("verity-hash=", "verity-hash="+strings.Repeat("0", 1e6))},
		{name: "manifest: hash of another tree", says: "the bundle is damaged", bytes: edit(b.hash, strings.Repeat("ab", 32))},
		{name: "manifest: tree of 2^60 bytes", says: "describes no usable hash tree", bytes: edit("verity-size="+strconv.Itoa(b.tree), "verity-size=1152921504606846976")},
		{name: "manifest: tree of no bytes", says: "describes no usable hash tree", bytes: edit("verity-size="+strconv.Itoa(b.tree), "verity-size=0")},
		{name: "manifest: image outside", says: "unable to map extension of file '../../../dev/vda'", bytes: edit("filename="+release.RootImage, "filename=../../../dev/vda")},
		{name: "manifest: image of no file", says: "the bundle has no file nosuch.ext4", bytes: edit("filename="+release.RootImage, "filename=nosuch.ext4")},
		{name: "manifest: image for no slot", says: "the bundle has no image for slot rootfs", bytes: edit("[image."+release.RootSlot+"]", "[image.nonsense]")},
		{name: "manifest: unknown format", says: "Invalid format value 'casync'", bytes: edit("format=verity", "format=casync")},
		{name: "manifest: plain format", says: "manifest cannot be used: Invalid key 'verity-hash'", bytes: edit("format=verity", "format=plain")},
	}
}

// torn are bundles whose damage is in a block of an image.
func (w *world) torn(t *testing.T) []badBundle {
	t.Helper()
	good := signed(t, w.keys, content(noise(2<<20), noise(2<<20)))
	b := layoutOf(t, good)
	const says = "the bundle is damaged there, or its download broke off"
	return []badBundle{
		{name: "bit in an image", bytes: flipped(good, 1<<20), says: says, touched: true},
		{name: "bit in the other image", bytes: flipped(good, 3<<20), says: says, touched: true},
		{name: "bit in the hash tree", bytes: flipped(good, b.cms-b.tree/2), says: says, touched: true},
	}
}

func flipped(b []byte, at int) []byte {
	out := bytes.Clone(b)
	out[at] ^= 0x10
	return out
}

// layout is where the parts of a verity bundle are, in bytes: a squashfs, its hash tree, the CMS
// message with the manifest, and the size of that.
type layout struct {
	good         []byte
	used         int // of the squashfs
	tree         int // size
	cms, cmsSize int
	manifest     int
	hash         string
}

func layoutOf(t *testing.T, good []byte) layout {
	t.Helper()
	l := layout{good: good, used: int(binary.LittleEndian.Uint64(good[40:]))}
	l.cmsSize = int(binary.BigEndian.Uint64(good[len(good)-8:]))
	l.cms = len(good) - 8 - l.cmsSize
	message := good[l.cms:]
	l.manifest = l.cms + bytes.Index(message, []byte("compatible="))
	for name, to := range map[string]func(string){
		"verity-hash=([0-9a-f]{64})": func(s string) { l.hash = s },
		"verity-size=([0-9]+)":       func(s string) { l.tree, _ = strconv.Atoi(s) },
	} {
		m := regexp.MustCompile(name).FindSubmatch(message)
		if m == nil {
			t.Fatalf("no %s in the manifest", name)
		}
		to(string(m[1]))
	}
	return l
}

// resigned replaces the manifest of a bundle and signs it with the right key.
func (w *world) resigned(t *testing.T, l layout, edit func(manifest string) string) []byte {
	t.Helper()
	dir := t.TempDir()
	in, text, out := filepath.Join(dir, "in"), filepath.Join(dir, "manifest"), filepath.Join(dir, "out")
	write(t, in, string(l.good[l.cms:l.cms+l.cmsSize]))
	need(t, "openssl", "cms", "-verify", "-noverify", "-binary", "-inform", "DER", "-in", in, "-out", text)
	manifest, err := os.ReadFile(text)
	if err != nil {
		t.Fatal(err)
	}
	write(t, text, edit(string(manifest)))
	need(t, "openssl", "cms", "-sign", "-binary", "-nodetach", "-outform", "DER", "-md", "sha256",
		"-signer", w.keys.Release(), "-inkey", w.keys.Release(), "-in", text, "-out", out)
	cms, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	b := append(bytes.Clone(l.good[:l.cms]), cms...)
	return binary.BigEndian.AppendUint64(b, uint64(len(cms)))
}
