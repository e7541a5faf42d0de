package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"time"

	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/machine"
)

// mirrorPatience is how long the mirror may take to answer.
const mirrorPatience = 10 * time.Second

// checkMirror asks the mirror that this host's apt uses, the way apt does.
func checkMirror(ctx context.Context, h Host) Result {
	ctx, cancel := context.WithTimeout(ctx, mirrorPatience)
	defer cancel()
	target, err := mirrorFile(ctx)
	if err == nil {
		err = reach(ctx, target)
	}
	if err == nil {
		return Result{State: Pass, Detail: "answers: " + target.Host}
	}
	r := Result{
		State: Fail, Detail: err.Error(),
		Fix: "toe firmware build --mirror URL   # a Debian mirror that this host reaches",
	}
	for _, kind := range []machine.Kind{machine.UML, machine.TCG} {
		if _, err := firmware.Find(h.Dirs.Cache, firmware.Micro, kind, arch.Host().Name); err == nil {
			r.State, r.Detail = Warn, r.Detail+"; firmware is built, so cards start without it"
			break
		}
	}
	return r
}

// mirrorFile is the first index file that apt would fetch.
func mirrorFile(ctx context.Context) (*url.URL, error) {
	out, err := exec.CommandContext(ctx, "apt-get", "--print-uris", "update").Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, errors.New("this host has no apt; name a mirror")
	}
	for line := range strings.Lines(string(out)) {
		quoted, _, _ := strings.Cut(strings.TrimPrefix(line, "'"), "'")
		u, err := url.Parse(quoted)
		if err == nil && (u.Scheme == "http" || u.Scheme == "https") {
			return u, nil
		}
	}
	return nil, errors.New("this host's apt has no http mirror")
}

func reach(ctx context.Context, target *url.URL) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, target.String(), nil)
	if err != nil {
		return err
	}
	proxy := http.ProxyFromEnvironment
	if p := aptProxy(ctx, target.Scheme); p != nil {
		proxy = http.ProxyURL(p)
	}
	client := &http.Client{Transport: &http.Transport{Proxy: proxy, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("the mirror does not answer: %w", err)
	}
	resp.Body.Close()
	if resp.StatusCode >= 400 {
		return fmt.Errorf("the mirror answers %s for %s", resp.Status, target)
	}
	return nil
}

// aptProxy is the proxy that apt uses.
func aptProxy(ctx context.Context, scheme string) *url.URL {
	out, err := exec.CommandContext(ctx, "apt-config", "dump", "--format", "%v%n", "Acquire::"+scheme+"::Proxy").Output()
	if err != nil {
		return nil
	}
	text := strings.TrimSpace(string(out))
	if text == "" || text == "DIRECT" {
		return nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return nil
	}
	return u
}
