package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/internal/arch"
)

// cacheOf returns shared if its images for the host have the agent built with the program under test,
// otherwise own, with images made of shared's packages and kernels. An image contains its agent, and
// other working trees use the shared cache too. Images of other architectures are taken as they are;
// see newForeignJourney.
func cacheOf(shared, own string) (string, error) {
	all, err := images(shared)
	if err != nil {
		return "", err
	}
	// A cache is used as a whole, so an image that is not stale is made again beside one that is.
	var ours []firmware.ImageStatus
	var foreign []string
	stale := false
	for _, i := range all {
		if i.Arch != arch.Host().Name && i.Edition == firmware.Micro {
			link := fmt.Sprintf("firmware/current-%s-%s-%s", i.Edition, i.Arch, i.Target)
			foreign = append(foreign, link, "firmware/"+filepath.Base(i.Path))
			continue
		}
		ours = append(ours, i)
		stale = stale || i.Differs != ""
	}
	if !stale {
		return shared, nil
	}
	if err := copyCache(shared, own, foreign); err != nil {
		return "", err
	}
	for _, i := range ours {
		build := exec.Command(toe, "firmware", "build", "--offline", "--quiet",
			"--machine", string(i.Target), "--edition", string(i.Edition), "--arch", i.Arch)
		if hasPackage(i.Packages, "chrony") {
			build.Args = append(build.Args, "-f", "testdata/services.yaml")
		}
		build.Env = append(os.Environ(), "TOE_CACHE_DIR="+own)
		if out, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("toe firmware build --machine %s --edition %s: %w: %s", i.Target, i.Edition, err, out)
		}
	}
	return own, nil
}

func hasPackage(list []firmware.Package, name string) bool {
	return slices.ContainsFunc(list, func(p firmware.Package) bool { return p.Name == name })
}

// images returns the current images of a cache.
func images(cache string) ([]firmware.ImageStatus, error) {
	status := exec.Command(toe, "firmware", "status", "--json")
	status.Env = append(os.Environ(), "TOE_CACHE_DIR="+cache)
	out, err := status.Output()
	if err != nil {
		return nil, fmt.Errorf("toe firmware status: %w", err)
	}
	var s firmware.Status
	if err := json.Unmarshal(out, &s); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(s.Images, func(i firmware.ImageStatus) bool { return i.State != "current" }), nil
}

// copyCache makes the cache to, with the packages, kernels of our own and passts of from, and files of it.
func copyCache(from, to string, files []string) error {
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	const copyTo = `from=$0 to=$1; shift; cd "$from"
tar -c --exclude='linux-source*' --exclude=./apt/bench ./apt ./uml $(ls -d passt-* debian nommu 2>/dev/null) "$@" | tar -x -C "$to"`
	if out, err := exec.Command("sh", append([]string{"-c", copyTo, from, to}, files...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("copy of %s: %w: %s", from, err, out)
	}
	return nil
}

// TestImageOfARunningCardStays: builds prune the cache, but keep the image of a running card. Its
// next start needs it.
func TestImageOfARunningCardStays(t *testing.T) {
	h := newHost(t)
	h.newCache(t)
	k := kinds[0]
	h.run(t, k.start, 0, "up", "-f", h.spec(t, "card.yaml", "machine: {kind: "+k.name+"}\nports: []\n"))
	before := h.status(t, "card0")
	agent := filepath.Join(filepath.Dir(toe), "toe-agent")
	for i := range 4 {
		program, err := os.ReadFile(agent)
		if err != nil {
			t.Fatal(err)
		}
		other := filepath.Join(h.dir, "toe-agent")
		// The kernel ignores what follows the last segment.
		if err := os.WriteFile(other, fmt.Append(program, "build ", i), 0o755); err != nil {
			t.Fatal(err)
		}
		h.run(t, k.start, 0, "firmware", "build", "--offline", "--machine", k.name, "--agent", other)
	}
	h.run(t, k.start, 0, "reset", "card0")
	after := h.await(t, "card0", k.start, "a healthy card", func(st status.Status) error {
		if st.State != status.Healthy || st.Machine.PID == 0 || st.Machine.PID == before.Machine.PID {
			return fmt.Errorf("machine %d, state %s %v", st.Machine.PID, st.State, st.Reasons)
		}
		return nil
	})
	if after.Firmware.Version != before.Firmware.Version {
		t.Errorf("firmware %s after a reset, was %s", after.Firmware.Version, before.Firmware.Version)
	}
	h.run(t, quick, 0, "down")
}
