package firmware

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/internal/atomicfile"
)

// CacheDir returns this user's firmware cache: $TOE_CACHE_DIR, else /var/cache/toe for root, else
// toe in $XDG_CACHE_HOME or ~/.cache.
func CacheDir() (string, error) {
	if dir := os.Getenv("TOE_CACHE_DIR"); dir != "" {
		return filepath.Abs(dir)
	}
	if os.Geteuid() == 0 {
		return "/var/cache/toe", nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no directory for the firmware cache: %w; set TOE_CACHE_DIR", err)
	}
	return filepath.Join(dir, "toe"), nil
}

// Status is the output of toe firmware status.
type Status struct {
	CacheDir   string        `json:"cache_dir"`
	CacheBytes int64         `json:"cache_bytes"`
	Images     []ImageStatus `json:"images"`
	HostAgent  *Agent        `json:"host_agent,omitempty"` // what a build would take
}

// ImageStatus is one image of the cache.
type ImageStatus struct {
	Manifest
	Path  string `json:"path"`
	Size  int64  `json:"size"`  // bytes
	State string `json:"state"` // current, old, or what is wrong with it
	// Differs describes how the image's agent differs from that of this host; empty if it does not.
	Differs    string `json:"differs,omitempty"`
	AgentKnown bool   `json:"-"` // this host has an agent of the architecture to compare with
}

// ReadStatus reads the cache. A damaged image is reported in the status and is not an error.
func ReadStatus(cacheDir string) (*Status, error) {
	s := &Status{CacheDir: cacheDir, Images: []ImageStatus{}}
	paths, err := filepath.Glob(filepath.Join(imageDir(cacheDir), "toe-*.tar"))
	if err != nil {
		return nil, err
	}
	if agent, err := HostAgent(arch.Host().Name); err == nil {
		s.HostAgent = &agent
	}
	for _, path := range paths {
		i := imageStatus(path, cacheDir)
		if agent, err := HostAgent(i.Arch); err == nil {
			if i.Edition != Nano { // which has no agent
				i.Differs = i.Agent.Difference(agent)
			}
			i.AgentKnown = true
		}
		s.Images = append(s.Images, i)
	}
	s.CacheBytes, err = diskUsage(cacheDir)
	return s, err
}

func imageStatus(path, cacheDir string) ImageStatus {
	img, err := openImage(path, cacheDir, nil)
	if err != nil {
		return ImageStatus{Path: path, State: err.Error()}
	}
	state := "old"
	link := currentLink(cacheDir, img.Edition, img.Target, img.Arch)
	if name, err := os.Readlink(link); err == nil && name == filepath.Base(path) {
		state = "current"
	}
	return ImageStatus{Manifest: img.Manifest, Path: path, Size: img.Size, State: state}
}

func diskUsage(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return nil
		}
		if err != nil {
			return err
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			total += info.Size()
		}
		return nil
	})
	return total, err
}

// Export verifies the image and writes it to a file.
func (img *Image) Export(path string) error {
	return atomicfile.WriteFunc(path, 0o644, func(w io.Writer) error {
		f, err := os.Open(img.Path)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		all := io.TeeReader(f, w)
		_, id, err := readImage(all, info.Size(), func(Member, io.Reader) error { return nil })
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, all); err != nil {
			return err
		}
		if id != img.id {
			return fmt.Errorf("%w: the file was replaced while it was read", ErrInvalid)
		}
		return nil
	})
}
