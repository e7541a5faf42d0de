package doctor

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/internal/ownnet"
	"github.com/toe-project/toe/internal/sandbox"
	"github.com/toe-project/toe/machine"
	"github.com/toe-project/toe/machine/qemu"
)

// TestMain is also the helper that builds a machine's cell.
func TestMain(m *testing.M) {
	sandbox.Main()
	os.Exit(m.Run())
}

const reduced = "TOE_TEST_WITHOUT_CAPABILITY"

// withoutCapability runs this test again as root that lacks a capability, as
// root in a container does.
func withoutCapability(t *testing.T, name string, f func()) {
	t.Helper()
	if os.Getenv(reduced) == name {
		f()
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("root without a capability takes root")
	}
	cmd := exec.Command("setpriv", "--bounding-set=-"+name, "--inh-caps=-"+name, "--",
		os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), reduced+"="+name)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("without %s: %v\n%s", name, err, out)
	}
}

// Root in a container is told which capability the container lacks, and not to
// install programs again that are there.
func TestWithoutSysAdmin(t *testing.T) {
	withoutCapability(t, "sys_admin", func() {
		h := host(t, qemu.New(qemu.Config{Kind: machine.TCG}))
		all := []Result{checkPrivileges(t.Context(), h)}
		if _, err := exec.LookPath(arch.Host().QEMU); err == nil {
			all = append(all, checkQEMU(t.Context(), h))
		}
		for _, r := range all {
			const why = "operation not permitted: this process lacks CAP_SYS_ADMIN"
			if r.State != Fail || !strings.HasSuffix(r.Detail, why) ||
				!strings.Contains(r.Fix, "--cap-add SYS_ADMIN") || strings.Contains(r.Fix, "apt") {
				t.Errorf("%+v", r)
			}
		}
		all[0].Name = "privileges"
		if r := judgeMachines(all[:1]); r.Fix != all[0].Fix {
			t.Errorf("the verdict: %+v, want the fix %s", r, all[0].Fix)
		}
	})
}

func TestWithoutNetAdmin(t *testing.T) {
	withoutCapability(t, "net_admin", func() {
		r := checkPrivileges(t.Context(), Host{})
		if r.State != Fail || !strings.Contains(r.Fix, "--cap-add NET_ADMIN") {
			t.Errorf("%+v", r)
		}
		if r := checkFirewall(t.Context(), Host{}); r.State != Skip {
			t.Errorf("firewall: %+v", r)
		}
	})
}

func TestFirewallThatDrops(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("nft is not installed")
	}
	ownnet.Run(t, func() {
		if r := checkFirewall(context.Background(), Host{}); r.State != Pass {
			t.Errorf("without a firewall: %+v", r)
		}
		const rules = "table inet t { chain in { type filter hook input priority 0; policy drop; }; }"
		if out, err := exec.Command("nft", rules).CombinedOutput(); err != nil {
			t.Errorf("nft: %v: %s", err, out)
			return
		}
		r := checkFirewall(context.Background(), Host{})
		if r.State != Fail || !strings.Contains(r.Detail, "table inet t chain in (policy drop)") ||
			!strings.HasPrefix(r.Fix, "sudo nft insert rule inet t in ") {
			t.Errorf("%+v", r)
		}
	})
}
