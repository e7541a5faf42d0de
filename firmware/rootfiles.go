package firmware

import (
	"embed"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/toe-project/toe/internal/newc"
)

// agentTree has the files of the package toe-agent, besides the program.
//
//go:embed all:debian/agent
var agentTree embed.FS

// links that systemd follows to start a unit, and the unit's name.
var wants = map[string]string{
	"/usr/lib/systemd/system/sysinit.target.wants/toe-agent.service":      "../toe-agent.service",
	"/usr/lib/systemd/system/sysinit.target.wants/ssh.service":            "../ssh.service",
	"/usr/lib/systemd/system/multi-user.target.wants/toe-console.service": "../toe-console.service",
}

// agentFiles returns the files of the package toe-agent, besides the program.
func agentFiles() []newc.File {
	const root = "debian/agent"
	var files []newc.File
	_ = fs.WalkDir(agentTree, root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := agentTree.ReadFile(name)
		files = append(files, newc.Regular(strings.TrimPrefix(name, root), 0o644, data))
		return err
	})
	for name, target := range wants {
		files = append(files, newc.Link(name, target))
	}
	return sorted(files)
}

// masked lists the units that a card does not start. An admin starts one with `systemctl unmask`.
// Without the first group a card starts in half of the time; the others would do what a card does not
// want: set a clock that it has not, check disks by night, wait for networkd.
var masked = []string{
	"systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount", "dev-mqueue.mount", "dev-hugepages.mount",
	"sys-fs-fuse-connections.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
	"modprobe@.service", "systemd-modules-load.service", "systemd-udev-load-credentials.service",
	"systemd-network-generator.service", "systemd-logind.service", "getty@.service", "serial-getty@.service",
	"console-getty.service", "getty-static.service", "systemd-rfkill.socket", "systemd-hostnamed.socket",
	"ldconfig.service", "systemd-journal-catalog-update.service", "systemd-hwdb-update.service",
	"systemd-update-done.service", "systemd-firstboot.service", "systemd-pcrmachine.service",
	"systemd-tpm2-setup-early.service", "systemd-tpm2-setup.service", "systemd-ask-password-console.path",
	"systemd-ask-password-wall.path",

	"hwclock.service", "fstrim.timer", "e2scrub_all.timer", "e2scrub_reap.service", "systemd-pstore.service",
	"dpkg-db-backup.timer", "systemd-networkd-wait-online.service",
	"unattended-upgrades.service", // holds a shutdown while it upgrades, and 26 MB always
}

// disabled lists links that start a unit which an admin may enable: a card installs nothing by itself
// before somebody wants it.
var disabled = []string{"timers.target.wants/apt-daily.timer", "timers.target.wants/apt-daily-upgrade.timer"}

// disabledLinks are the links that start what is disabled in every root, and these units.
func disabledLinks(units []string) []string {
	links := slices.Clone(disabled)
	for _, u := range units {
		links = append(links, "*.wants/"+u)
	}
	return links
}

// maskedGenerators look for what a card has not: each is a process at every start.
var maskedGenerators = []string{
	"systemd-getty-generator", "systemd-gpt-auto-generator", "systemd-hibernate-resume-generator",
	"systemd-cryptsetup-generator", "systemd-integritysetup-generator", "systemd-veritysetup-generator",
	"systemd-tpm2-generator", "systemd-bless-boot-generator", "systemd-rc-local-generator",
	"systemd-ssh-generator", "systemd-system-update-generator", "systemd-import-generator",
}

// rootFiles are the files of a card's root that belong to no package.
func rootFiles() []newc.File {
	files := []newc.File{
		newc.Dir("/var/log/journal", 0o755),
		newc.Regular("/etc/fstab", 0o644, []byte("# The agent mounts the root before systemd starts.\n")),
		newc.Regular("/etc/hosts", 0o644, []byte("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")),
		newc.Regular("/etc/nftables.conf", 0o755, []byte(nftablesConf)),
		newc.Regular("/etc/apt/apt.conf.d/90toe", 0o644, []byte("APT::Install-Recommends \"false\";\nAcquire::Languages \"none\";\n")),
	}
	for _, unit := range masked {
		files = append(files, newc.Link("/etc/systemd/system/"+unit, "/dev/null"))
	}
	for _, name := range maskedGenerators {
		files = append(files, newc.Link("/etc/systemd/system-generators/"+name, "/dev/null"))
	}
	return files
}

// nftablesConf takes the place of Debian's, which begins with "flush ruleset": that would remove the
// card's own rules.
const nftablesConf = `#!/usr/sbin/nft -f
# Rules of the administrator, loaded by nftables.service. The table inet toe is the card's own: do not
# flush the whole ruleset, only your own tables.
table inet admin
delete table inet admin
table inet admin {
}
`

// rootModules are the kernel's modules as the root has them: all of the package, and the lists of
// those that the agent loads.
func (b *base) rootModules() []newc.File {
	files := slices.Clone(b.modules)
	have := map[string]bool{}
	for i := range files {
		files[i].Name = usrMerged(files[i].Name)
		have[files[i].Name] = true
	}
	root := "/usr/lib/modules/" + b.release
	for name, data := range b.tree {
		full := path.Join(root, name)
		if !have[full] && !have[strings.TrimSuffix(full, ".xz")] {
			files = append(files, newc.Regular(full, 0o644, data))
		}
	}
	// depmod makes these again, for all modules.
	return sorted(slices.DeleteFunc(files, func(f newc.File) bool {
		return f.Name == root+"/modules.dep" || f.Name == root+"/modules.alias"
	}))
}
