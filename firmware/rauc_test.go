package firmware

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/toe-project/toe/internal/newc"
)

// script writes one of the card's scripts of RAUC to a file.
func script(t *testing.T, name string) string {
	t.Helper()
	for _, f := range raucFiles("toe-amd64-uml-debian", []byte("ring")) {
		if f.Name == name {
			path := filepath.Join(t.TempDir(), filepath.Base(name))
			if err := os.WriteFile(path, f.Data, 0o755); err != nil {
				t.Fatal(err)
			}
			return path
		}
	}
	t.Fatalf("no file %s", name)
	return ""
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

const raucStatus = "[system]\nboot-id=x\n\n[slot.rootfs.1]\nbundle.version=2026.1128.2\nstatus=ok\n\n" +
	"[slot.boot.1]\nbundle.version=2026.1128.3\n\n[slot.rootfs.0]\nstatus=ok\nbundle.version=2026.1127.1\n"

func TestRAUCConfig(t *testing.T) {
	program := script(t, "/usr/lib/toe/rauc-config")
	for name, c := range map[string]struct {
		cmdline, status string
		ring            bool
		want, not       string
	}{
		"slot A":            {"quiet rauc.slot=A", raucStatus, false, "\nmin-bundle-version=2026.1127.1\n", "keyring.pem.new"},
		"slot B":            {"rauc.slot=B quiet", raucStatus, false, "\nmin-bundle-version=2026.1128.2\n", "1128.3"},
		"after power loss":  {"rauc.slot=A", strings.Repeat("\x00", 900), false, "/usr/lib/rauc/", "min-bundle"},
		"as flashed":        {"rauc.slot=A", "", false, "/usr/lib/rauc/", "min-bundle"},
		"no slot":           {"quiet", raucStatus, false, "compatible=toe-amd64-uml-debian", "min-bundle"},
		"the admin's ring":  {"rauc.slot=A", "", true, "path=DATA/keyring.pem", "path=/usr/lib"},
		"a crafted version": {"rauc.slot=A", strings.ReplaceAll(raucStatus, "2026.1127.1", "1\\n[handlers]"), false, "compatible", "1\\n"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			data, run, lib := filepath.Join(dir, "data"), filepath.Join(dir, "run"), filepath.Join(dir, "lib")
			put(t, filepath.Join(dir, "cmdline"), c.cmdline)
			conf, err := os.ReadFile(script(t, "/usr/lib/rauc/system.conf"))
			if err != nil {
				t.Fatal(err)
			}
			put(t, filepath.Join(lib, "system.conf"), string(conf))
			if c.status != "" {
				put(t, filepath.Join(data, "central.raucs"), c.status)
			}
			if c.ring {
				put(t, filepath.Join(data, "keyring.pem"), "ring")
			}
			cmd := exec.Command("sh", program)
			cmd.Env = append(os.Environ(), "DATA="+data, "RUN="+run, "LIB="+lib, "CMDLINE="+filepath.Join(dir, "cmdline"))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			got, err := os.ReadFile(filepath.Join(run, "system.conf"))
			if err != nil {
				t.Fatal(err)
			}
			text := strings.NewReplacer(data, "DATA", lib, "/usr/lib/rauc").Replace(string(got))
			if !strings.Contains(text, c.want) || strings.Contains(text, c.not) {
				t.Errorf("want %q and no %q in it:\n%s", c.want, c.not, text)
			}
			db, err := os.ReadFile(filepath.Join(data, "central.raucs"))
			if err != nil || !strings.HasPrefix(string(db), "[system]") && !strings.HasPrefix(string(db), "# What") || strings.Contains(string(db), "\x00") {
				t.Errorf("RAUC's database: %q, %v", db, err)
			}
			if strings.Count(text, "[") != strings.Count(string(conf), "[") {
				t.Errorf("another section:\n%s", text)
			}
		})
	}
}

func TestRAUCCheck(t *testing.T) {
	program := script(t, "/usr/lib/toe/rauc-check")
	for name, c := range map[string]struct {
		boot, root string // sizes of the images
		refused    string
	}{
		"fits":       {"100", "1000", ""},
		"boot large": {"101", "1000", "image boot.img has 101 bytes, slot boot.1 has room for 100"},
		"root large": {"1", "1001", "image rootfs.ext4 has 1001 bytes, slot rootfs.1 has room for 1000"},
		"a bomb":     {"1", "1000000000000", "slot rootfs.1 has room for 1000"},
		"half":       {"", "1", "no image for slot boot.1"},
		"on trial":   {"100", "1000", "the running slot is on trial"},
		"lost file":  {"missing", "1", "no file boot.img"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			bin := filepath.Join(dir, "bin")
			// The sizes of files and devices come from these: a test has no block device.
			put(t, filepath.Join(bin, "stat"), "#!/bin/sh\ncase $3 in *boot.img) n=$BOOT ;; *) n=$ROOT ;; esac\n[ \"$n\" != missing ] && echo $n\n")
			put(t, filepath.Join(bin, "blockdev"), "#!/bin/sh\ncase $2 in *boot*) echo 100 ;; *) echo 1000 ;; esac\n")
			put(t, filepath.Join(bin, "logger"), "#!/bin/sh\n")
			for _, p := range []string{"stat", "blockdev", "logger"} {
				if err := os.Chmod(filepath.Join(bin, p), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command("sh", program)
			cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "RUN="+dir, "BOOT="+c.boot, "ROOT="+c.root,
				"RAUC_TARGET_SLOTS=2 4", "RAUC_BUNDLE_MOUNT_POINT=/mnt",
				"RAUC_SLOT_NAME_2=boot.1", "RAUC_SLOT_DEVICE_2=/dev/boot", "RAUC_SLOT_NAME_4=rootfs.1", "RAUC_SLOT_DEVICE_4=/dev/root",
				"RAUC_IMAGE_NAME_4=rootfs.ext4")
			if c.boot != "" {
				cmd.Env = append(cmd.Env, "RAUC_IMAGE_NAME_2=boot.img")
			}
			if name == "on trial" {
				put(t, filepath.Join(dir, "trial"), "")
			}
			cmd.Env = append(cmd.Env, "TRIAL="+filepath.Join(dir, "trial"), "LOCK="+filepath.Join(dir, "lock"))
			out, err := cmd.CombinedOutput()
			why, _ := os.ReadFile(filepath.Join(dir, "refused"))
			if (err != nil) != (c.refused != "") || !strings.Contains(string(why), c.refused) {
				t.Errorf("%v, said %q, refused %q, want %q", err, out, why, c.refused)
			}
		})
	}
}

func TestNewerRAUCOnlyWhereNeeded(t *testing.T) {
	for _, release := range []string{"6.12.118+deb13-cloud-amd64", "6.18.2"} {
		if files, err := newerRAUC(t.Context(), Options{CacheDir: t.TempDir()}, release); err != nil || len(files) > 0 {
			t.Errorf("%s: %d packages, %v", release, len(files), err)
		}
	}
	if _, err := newerRAUC(t.Context(), Options{CacheDir: t.TempDir(), Arch: "amd64", Mirror: "/no/url"}, "7.3.4-toe"); err == nil {
		t.Error("7.3.4-toe: no packages needed")
	}
}

func TestRAUCVersion(t *testing.T) {
	for version, good := range map[string]bool{
		"1.15.2-1": true, "1.15-1": true, "2.0-1": true, "1.14.9-1": false, "1.8-2": false, "15": false, "": false,
	} {
		if err := checkRAUC(version); (err == nil) != good {
			t.Errorf("%q: %v", version, err)
		}
	}
}

func TestRAUCFilesHaveTheCompatible(t *testing.T) {
	var conf newc.File
	for _, f := range raucFiles("toe-amd64-qemu-debian", nil) {
		if f.Name == "/usr/lib/rauc/keyring.pem" {
			t.Error("there is an empty keyring")
		}
		if f.Name == "/usr/lib/rauc/system.conf" {
			conf = f
		}
	}
	if !strings.Contains(string(conf.Data), "\ncompatible=toe-amd64-qemu-debian\n") || strings.Contains(string(conf.Data), "@") {
		t.Errorf("%s", conf.Data)
	}
}
